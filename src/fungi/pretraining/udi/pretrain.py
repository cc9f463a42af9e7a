"""`fungi udi pretrain`: train with UDI in one process, or in several under torchrun."""

import sys
from collections.abc import Sequence

from fungi.errors import counted
from fungi.pretraining.udi.settings import PretrainSettings, our_arguments
from fungi.runtime.command import run_command
from fungi.runtime.log import logger

DESCRIPTION = """Pretrain a vision transformer with UDI: two class tokens, three losses, a moving average as teacher.

The command writes checkpoint.pth (in the published layout) and log.txt (one JSON line per epoch) into --output-dir. If
a run is interrupted, the same command resumes it with the same numbers. On several GPUs: torchrun --nproc_per_node 8 -m
fungi udi pretrain ...
Then: fungi extract --backbone udi-vits16 --checkpoint checkpoint.pth"""


def run(settings: PretrainSettings) -> None:
    """Train to the end. After a signal, exit with the status of the signal."""
    import torch

    from fungi.pretraining.processes import process_group, queue_again, stop_on_signals
    from fungi.pretraining.udi.images import open_images
    from fungi.pretraining.udi.training import Training
    from fungi.runtime.device import keep_freed_memory
    from fungi.runtime.precision import tf32_products

    keep_freed_memory()
    samples = open_images(settings.data_path, settings.dataset, settings.data_dir)
    with process_group(settings.device) as (world, device), stop_on_signals() as stop:
        if not world.is_leader:
            logger.setLevel("ERROR")
        training = Training(settings, samples, world, device)
        logger.info(
            f"{counted(len(samples), 'image')}, batches of {training.plan.batch}, "
            f"{counted(len(training.schedules), 'step')} on {device}"
        )
        # With float32, products keep their precision. With bfloat16, the float32 logits of prototypes may use TF32.
        with tf32_products(device, enabled=training.learner.dtype != torch.float32):
            finished = training.run(stop)
        if world.is_leader:
            print(f"wrote {training.checkpoint}")
        if not finished:
            logger.info("interrupted and saved; run the same command to resume")
            if world.is_leader:
                queue_again(stop)
            sys.exit(stop.status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with our arguments or with arguments of the published command; return the exit status."""
    words = our_arguments(list(sys.argv[1:] if arguments is None else arguments))
    return run_command(PretrainSettings, run, program="fungi udi pretrain", description=DESCRIPTION, arguments=words)
