"""Save and load checkpoints in the published layout (spec udi 6.1). Loading never runs code in the file.

The layout stores both class tokens in one `cls_token`. timm's transformer stores the second class token in `reg_token`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from fungi.backbones.base import StateDict
from fungi.backbones.checkpoint_files import read_content
from fungi.errors import FungiError
from fungi.pretraining.udi.learner import Learner
from fungi.runtime.files import save_with_torch

TRANSFORMER = "backbone.backbone."
"""Prefix of the names of the transformer's tensors."""
VERSION = 1


def published_names(state: StateDict) -> StateDict:
    """Return the state of a network under the names of the published layout."""
    renamed = dict(state)
    register = renamed.pop(f"{TRANSFORMER}reg_token", None)
    if register is not None:
        renamed[f"{TRANSFORMER}cls_token"] = torch.cat([renamed[f"{TRANSFORMER}cls_token"], register], dim=1)
    return renamed


def timm_names(state: StateDict) -> StateDict:
    """Return the state of a network in the published layout under timm's names, without a leading `module.`."""
    renamed = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    token = renamed.get(f"{TRANSFORMER}cls_token")
    if token is not None and token.shape[1] == 2:
        renamed[f"{TRANSFORMER}cls_token"], renamed[f"{TRANSFORMER}reg_token"] = token[:, :1], token[:, 1:]
    return renamed


def save_checkpoint(
    path: Path, learner: Learner, *, epoch: int, arguments: dict[str, Any], run: dict[str, Any]
) -> None:
    """Write everything that a run needs to resume.

    epoch: index of the first unfinished epoch. run: values of the run that the published layout does not contain.
    """
    content = {
        "student": {f"module.{name}": tensor for name, tensor in published_names(learner.student.state_dict()).items()},
        "teacher": published_names(learner.teacher.state_dict()),
        "optimizer": learner.optimizer.state_dict(),
        "epoch": epoch,
        "args": argparse.Namespace(**arguments),
        "udi_loss": {"centering.center": learner.centres, "centering.count": torch.zeros(len(learner.centres), 1)},
        "fungi": {"version": VERSION, **run},
    }
    save_with_torch(content, path)


def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Restore the state of the learner. Return the values that `save_checkpoint` wrote from its argument `run`.

    Raises FungiError if the file is not a checkpoint of this program, or if its network has other sizes.
    """
    content = read_content(path)
    if not isinstance(content, dict) or "fungi" not in content:
        raise FungiError(
            f"{path} was not written by this program, so a run can't resume from it. Use another --output-dir."
        )
    try:
        learner.student.load_state_dict(timm_names(content["student"]))
        learner.teacher.load_state_dict(timm_names(content["teacher"]))
        learner.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise FungiError(
            f"{path} contains another network ({str(error).splitlines()[0]}). Use another --output-dir."
        ) from None
    learner.centres = content["udi_loss"]["centering.center"].to(learner.device)
    return content["fungi"]
