"""Train with two processes, without the random draws of each process and without steps that amplify rounding."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from fungi.commands import COMMANDS

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def simplified() -> Iterator[None]:
    """Use SGD instead of AdamW, no dropout, few scenes, and a detector whose heads learn only from the true boxes.

    If a gradient is only rounding, the first steps of AdamW still have the size of the rate. Rounding also decides
    which proposals remain after suppression.
    """
    with ExitStack() as stack:
        for name, value in {
            "torch.optim.AdamW": torch.optim.SGD,
            "fungi.pretraining.dense.semantic_head.DROPOUT": 0.0,
            "torchvision.models.detection.rpn.RegionProposalNetwork.post_nms_top_n": lambda self: 0,
        }.items():
            stack.enter_context(patch(name, value))
        stack.enter_context(patch.dict("fungi.data.sets.digit_scenes.SCENES", {"test": 10}))
        yield


def train_in_two_processes(command: str, flags: Sequence[str]) -> None:
    """Run a command of `fungi` in two simplified processes, and wait for them."""
    with two_processes("tests.pretraining.two_processes", command, *flags):
        pass


@contextmanager
def two_processes(module: str, *arguments: str) -> Iterator[None]:
    """Run a module in two processes that train together by gloo. At the end of the block, wait until both succeed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]  # a free port
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
        )
        for rank in range(2)
    ]
    try:
        yield
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()  # does nothing if the process has ended
            process.wait()


if __name__ == "__main__":
    with simplified():
        sys.exit(COMMANDS[sys.argv[1]].main(sys.argv[2:]))
