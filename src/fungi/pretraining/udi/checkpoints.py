"""Checkpoints in the published layout (spec udi 6.1): written whole, read without running anything in them.

The layout stores both class tokens in one `cls_token`; timm's transformer has a `reg_token` for the second.
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

INNER = "backbone.backbone."
VERSION = 1


def published_names(state: StateDict) -> StateDict:
    """Return a network's state in the layout's names."""
    renamed = dict(state)
    register = renamed.pop(f"{INNER}reg_token", None)
    if register is not None:
        renamed[f"{INNER}cls_token"] = torch.cat([renamed[f"{INNER}cls_token"], register], dim=1)
    return renamed


def own_names(state: StateDict) -> StateDict:
    """Return the reverse of `published_names`; a leading `module.` goes."""
    renamed = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    token = renamed.get(f"{INNER}cls_token")
    if token is not None and token.shape[1] == 2:
        renamed[f"{INNER}cls_token"], renamed[f"{INNER}reg_token"] = token[:, :1], token[:, 1:]
    return renamed


def save_checkpoint(
    path: Path, learner: Learner, *, epoch: int, arguments: dict[str, Any], run: dict[str, Any]
) -> None:
    """Write everything that a run needs to go on. epoch: the next epoch, or the one that is under way.

    run: of plain values, beside the published entries.
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
    """Restore the state of a run, and return its own plain values.

    Raises FungiError for a file that is no checkpoint of such a run.
    """
    content = read_content(path)
    if not isinstance(content, dict) or "fungi" not in content:
        raise FungiError(
            f"{path} was not written by this program, so that a run can't go on from it. Use another --output-dir."
        )
    try:
        learner.student.load_state_dict(own_names(content["student"]))
        learner.teacher.load_state_dict(own_names(content["teacher"]))
        learner.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise FungiError(
            f"{path} is of another network ({str(error).splitlines()[0]}). Use another --output-dir."
        ) from None
    learner.centres = content["udi_loss"]["centering.center"].to(learner.device)
    return content["fungi"]
