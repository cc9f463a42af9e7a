"""Two processes that train together by gloo, without what each process draws for itself and what amplifies rounding."""

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
    """SGD in place of AdamW, no dropout, few scenes, and a detector whose heads learn from the true boxes alone.

    AdamW's first steps have the size of the rate even if a gradient is only rounding. Which proposals are left after
    suppression also depends on rounding.
    """
    with ExitStack() as stack:
        for place, value in {
            "torch.optim.AdamW": torch.optim.SGD,
            "fungi.pretraining.dense.semantic_head.DROPOUT": 0.0,
            "torchvision.models.detection.rpn.RegionProposalNetwork.post_nms_top_n": lambda self: 0,
        }.items():
            stack.enter_context(patch(place, value))
        stack.enter_context(patch.dict("fungi.data.sets.digit_scenes.SCENES", {"test": 10}))
        yield


def train_in_two_processes(command: str, flags: Sequence[str]) -> None:
    """Run a command of `fungi` in two simplified processes, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.pretraining.two_processes", command, *flags],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=REPOSITORY,
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in running] == [0, 0]


if __name__ == "__main__":
    with simplified():
        sys.exit(COMMANDS[sys.argv[1]].main(sys.argv[2:]))
