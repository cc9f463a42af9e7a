"""A linear classifier that is trained by SGD on frozen features (spec udi 7.2)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fungi.runtime.seeds import torch_generator

INITIAL_STD, MOMENTUM = 0.01, 0.9


def linear_probe(
    train: Float[Tensor, "n f"],
    train_targets: Int64[Tensor, " n"],
    test: Float[Tensor, "q f"],
    test_targets: Int64[Tensor, " q"],
    *,
    rate: float,
    epochs: int,
    batch: int,
    seed: int = 0,
) -> dict[str, float]:
    """Return the test accuracies `accuracy` (the best epoch, as in the protocol) and `last-accuracy` (the last epoch).

    The probe is a linear layer with initial weights N(0, 0.01^2), trained without weight decay. batch: rows per batch.
    The learning rate decreases as a cosine from `rate * batch / 256` to 0.
    """
    classes = int(torch.cat([train_targets, test_targets]).max()) + 1
    generator = torch_generator(seed, "linear probe")
    layer = nn.Linear(train.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * INITIAL_STD)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate * batch / 256, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(epochs, 1))
    accuracies = []
    for _ in range(epochs):
        for rows in torch.randperm(len(train), generator=generator).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(train[rows]), train_targets[rows]).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            accuracies.append(float((layer(test).argmax(1) == test_targets).double().mean()))
    return {"accuracy": max(accuracies), "last-accuracy": accuracies[-1]}
