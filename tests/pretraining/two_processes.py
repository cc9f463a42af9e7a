"""Train with two processes, without the random draws of each process and without steps that amplify rounding."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import torch

from fungi.commands import COMMANDS

LIBRARIES = ("timm", "torchvision.models.detection", "pycocotools.cocoeval")


@contextmanager
def narrow_mask_head(channels: int = 32) -> Iterator[None]:
    """Give the mask head of Mask R-CNN few channels instead of 256, which take most of the time of a small detector."""
    from torchvision.models.detection import mask_rcnn

    head, predictor = mask_rcnn.MaskRCNNHeads, mask_rcnn.MaskRCNNPredictor
    with ExitStack() as stack:
        for name, replacement in {
            "MaskRCNNHeads": lambda inputs, layers, dilation: head(inputs, (channels,) * len(layers), dilation),
            "MaskRCNNPredictor": lambda inputs, reduced, classes: predictor(channels, channels, classes),
        }.items():
            stack.enter_context(patch.object(mask_rcnn, name, replacement))
        yield


@contextmanager
def sgd_without_dropout() -> Iterator[None]:
    """Use SGD instead of AdamW, no dropout, few scenes, and a detector whose heads learn only from the true boxes.

    The mask head is narrow.

    If a gradient is only rounding, the first steps of AdamW still have the size of the rate. Rounding also decides
    which proposals remain after suppression.
    """
    with narrow_mask_head(), ExitStack() as stack:
        for name, value in {
            "torch.optim.AdamW": torch.optim.SGD,
            "fungi.pretraining.dense.semantic_head.DROPOUT": 0.0,
            "torchvision.models.detection.rpn.RegionProposalNetwork.post_nms_top_n": lambda self: 0,
        }.items():
            stack.enter_context(patch(name, value))
        stack.enter_context(patch.dict("fungi.data.sets.digit_scenes.SCENES", {"test": 10}))
        yield


@contextmanager
def two_processes(command: str, *flags: str, simple: bool = False) -> Iterator[None]:
    """Run a command of `fungi` in two processes that train together by gloo. At the end of the block, both succeed.

    The processes are forks of a process that has only imported the libraries, because every import takes seconds.
    simple: whether the processes train with `sgd_without_dropout`.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]  # a free port
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *LIBRARIES])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [context.Process(target=_train, args=(command, flags, variables, simple)) for variables in environments]
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join(300)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()  # does nothing if the process has ended
            process.join()


def _train(command: str, flags: Sequence[str], environment: dict[str, str], simple: bool) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    with sgd_without_dropout() if simple else nullcontext():
        sys.exit(COMMANDS[command].main(list(flags)))
