"""`fungi udi fine-tune`: train a pretrained transformer together with a classifier (spec udi 7.3 to 7.5)."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from fungi.errors import FungiError
from fungi.pretraining.transfer.fine_tune_settings import FineTuneSettings
from fungi.runtime.command import run_command
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger

DESCRIPTION = """Train a vision transformer together with a classifier on its class token. Every epoch is scored.

--recipe sets the values of absent flags: imagenet (BEiT's, with layer decay), transfer (DeiT's, to another dataset),
low-shot (few images, classifier above the first layer of the pretraining head; needs a full checkpoint and
--train-share or --train-list). An interrupted run resumes after its last epoch. On several GPUs: torchrun
--nproc_per_node 4 -m fungi udi fine-tune ..."""

UNUSED = ("--disable_rel_pos_bias", "--abs_pos_emb", "--use_cls", "--imagenet_default_mean_and_std")
"""Switches of the published command that change nothing here. Absolute positions, the class token, and the mean and
standard deviation of ImageNet are always used.
"""


def run(settings: FineTuneSettings) -> dict[str, Any]:
    """Return settings, provenance and scores. The process with rank 0 writes them to `result.json`."""
    from fungi.pretraining.processes import joined
    from fungi.pretraining.transfer.classifier import add_classifier, first_head_layer
    from fungi.pretraining.transfer.fine_tuning import FineTuning

    recipe = settings.chosen
    train, scored = settings.open_rows()
    backbone = settings.load_network()
    classes = 1 + int(max(train.targets.max(), scored.targets.max()))
    model = add_classifier(
        backbone.model,
        classes,
        drop_path=settings.drop_path,
        scale=recipe.classifier_scale,
        hidden=first_head_layer(settings.checkpoint) if recipe.head_layer else None,
        seed=settings.seed,
    )
    with joined(settings.device) as (world, device):
        if not world.leads:
            logger.setLevel("ERROR")
        classifier = dataclasses.replace(backbone, model=model)
        results = FineTuning(settings, classifier, train, scored, world, device).run()
    content = {
        "settings": settings.complete(),
        "provenance": {"weights": backbone.weights_source, "weights_hash": backbone.weights_hash},
        "results": {"fine-tuned": results},
    }
    if world.leads:
        write_text_atomically(settings.output_dir / "result.json", json.dumps(content, indent=1))
        print("  ".join(f"{name} {100 * value:.2f}" for name, value in results.items()))
        print(f"wrote {settings.output_dir / 'result.json'}")
    return content


def client_spelling(arguments: list[str]) -> list[str]:
    """Return the arguments of the published command in our spelling, without switches that change nothing.

    Raises FungiError if they ask for LayerScale.
    """
    words = [text.replace("_", "-") if text.startswith("--") else text for text in arguments if text not in UNUSED]
    flag = "--layer-scale-init-value"
    if flag not in words:
        return words
    place = words.index(flag)
    if [float(text) for text in words[place + 1 : place + 2]] != [0.0]:
        raise FungiError("--layer_scale_init_value has to be 0: these networks have no LayerScale.")
    return words[:place] + words[place + 2 :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = "fungi udi fine-tune"
    try:
        words = client_spelling(words)
    except (FungiError, ValueError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return run_command(FineTuneSettings, run, program=program, description=DESCRIPTION, arguments=words)
