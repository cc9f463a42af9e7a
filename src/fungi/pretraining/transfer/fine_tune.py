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

--recipe sets the values of absent flags. imagenet: the recipe of BEiT, with layer decay. transfer: the recipe of DeiT
for another dataset. low-shot: few images, with the classifier above the first layer of the pretraining head; it needs a
full checkpoint and --train-share or --train-list. An interrupted run resumes after its last epoch. On several GPUs:
torchrun --nproc_per_node 4 -m fungi udi fine-tune ..."""

IGNORED_FLAGS = ("--disable_rel_pos_bias", "--abs_pos_emb", "--use_cls", "--imagenet_default_mean_and_std")
"""Flags of the published command that have no effect here. Absolute positions, the class token, and the mean and
standard deviation of ImageNet are always used.
"""


def run(settings: FineTuneSettings) -> dict[str, Any]:
    """Train and score; return settings, provenance and scores. The process with rank 0 writes them to `result.json`."""
    from fungi.pretraining.processes import process_group
    from fungi.pretraining.transfer.classifier import add_classifier, first_head_layer
    from fungi.pretraining.transfer.fine_tuning import FineTuning

    recipe = settings.recipe_with_flags
    train, test = settings.open_rows()
    backbone = settings.load_network()
    classes = 1 + int(max(train.targets.max(), test.targets.max()))
    model = add_classifier(
        backbone.model,
        classes,
        drop_path=settings.drop_path,
        scale=recipe.classifier_scale,
        hidden=first_head_layer(settings.checkpoint) if recipe.head_layer else None,
        seed=settings.seed,
    )
    with process_group(settings.device) as (world, device):
        if not world.is_leader:
            logger.setLevel("ERROR")
        classifier = dataclasses.replace(backbone, model=model)
        results = FineTuning(settings, classifier, train, test, world, device).run()
    content = {
        "settings": settings.with_recipe(),
        "provenance": {"weights": backbone.weights_source, "weights_hash": backbone.weights_hash},
        "results": {"fine-tuned": results},
    }
    if world.is_leader:
        write_text_atomically(settings.output_dir / "result.json", json.dumps(content, indent=1))
        print("  ".join(f"{name} {100 * value:.2f}" for name, value in results.items()))
        print(f"wrote {settings.output_dir / 'result.json'}")
    return content


def our_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments of the published command with our names of flags, without flags that have no effect.

    Raises FungiError if the arguments ask for LayerScale.
    """
    used = [text for text in arguments if text not in IGNORED_FLAGS]
    words = [text.replace("_", "-") if text.startswith("--") else text for text in used]
    flag = "--layer-scale-init-value"
    if flag not in words:
        return words
    position = words.index(flag)
    values = words[position + 1 : position + 2]  # empty if the flag is the last word
    if [float(text) for text in values] != [0.0]:
        raise FungiError("--layer_scale_init_value has to be 0: these networks have no LayerScale.")
    return words[:position] + words[position + 2 :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with our arguments or with arguments of the published command; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = "fungi udi fine-tune"
    try:
        words = our_arguments(words)
    except (FungiError, ValueError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return run_command(FineTuneSettings, run, program=program, description=DESCRIPTION, arguments=words)
