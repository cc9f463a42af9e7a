"""A model taken as it has to be for extraction, and left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """While inside: evaluation mode (BatchNorm on running statistics, no dropout); no parameter asks for a gradient.

    Flags are set one by one, without `eval()`: some models do more than setting a flag there (merge adapters, say).
    """
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
