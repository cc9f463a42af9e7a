"""Options of SimCLR: hard negatives, mixed negatives, and negatives without the views of the same image."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from fungi.backbones.encoders import Encoded
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.objectives.simclr import SimCLR, info_nce, mix_negatives, own_negatives


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples(count: int) -> Samples:
    """Return a dataset of rows without content."""
    return Samples(np.zeros(count, dtype=np.uint32), [str(row) for row in range(count)], load=lambda row: row)


def slow_info_nce(positives: Tensor, negatives: list[list[Tensor]], temperature: float) -> float:
    """Return InfoNCE of one sample by loops. `negatives[i]` are the negatives of view i."""
    losses = []
    for i, query in enumerate(positives):
        positive_cosines = [float(cosine_similarity(query, view, dim=0)) for j, view in enumerate(positives) if j != i]
        negative_cosines = [float(cosine_similarity(query, negative, dim=0)) for negative in negatives[i]]
        total = sum(math.exp(value / temperature) for value in positive_cosines + negative_cosines)
        mean = sum(positive_cosines) / len(positive_cosines)
        losses.append(-mean / temperature + math.log(total))
    return sum(losses) / len(losses)


def test_mixed_negatives_are_used_only_for_their_view() -> None:
    positives, negatives, shares = random(2, 3, 6), random(8, 6, seed=1), torch.rand(3, 4) / 2
    mixed = mix_negatives(positives, negatives, shares)
    actual = info_nce(positives, negatives, temperature=0.5, mixed=mixed)
    for sample, loss, synthetic in zip(positives, actual, mixed, strict=True):
        lists = [[*negatives, *synthetic[view]] for view in range(3)]
        assert float(loss) == pytest.approx(slow_info_nce(sample, lists, temperature=0.5), rel=1e-5)


def test_each_mixing_share_belongs_to_one_of_the_nearest_negatives() -> None:
    positives, negatives, shares = random(1, 2, 6), random(9, 6, seed=1), torch.rand(2, 3) / 2
    mixed = mix_negatives(positives.requires_grad_(), negatives, shares)
    assert not mixed.requires_grad
    for view in range(2):
        query = normalize(positives[0, view].detach(), dim=0)
        nearest = sorted(negatives, key=lambda row: -float(cosine_similarity(row, query, dim=0)))
        for position, share in enumerate(shares[view]):
            expected = normalize(share * query + (1 - share) * normalize(nearest[position], dim=0), dim=0)
            torch.testing.assert_close(mixed[0, view, position], expected)


def test_mixing_depends_only_on_the_sample() -> None:
    objective = SimCLR(latent_dim=4, negatives_mixing=True, mixed_negatives=3)
    heads = objective.heads(6, seed=0)
    support = objective.support(samples(5), lambda chosen: random(len(chosen), 3, 6), heads, seed=0)
    embeddings = random(4, 3, 6, seed=7)
    together = objective.loss(Encoded(embeddings), heads, support)
    alone = torch.cat([objective.loss(Encoded(sample[None]), heads, support) for sample in embeddings])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, SimCLR(latent_dim=4).loss(Encoded(embeddings), heads, support))


def test_own_views_are_not_negatives() -> None:
    negatives = random(4, 3, 6, seed=1)  # four images of three views
    positives = torch.stack([negatives[2] * 1.5, random(3, 6, seed=2)])
    own = own_negatives(positives, negatives.flatten(0, 1), negatives)
    assert own.tolist() == [[False] * 6 + [True] * 3 + [False] * 3, [False] * 12]
    actual = info_nce(positives, negatives.flatten(0, 1), temperature=0.5, own=own)
    of_other_images = [row for image in (0, 1, 3) for row in negatives[image]]
    expected = slow_info_nce(positives[0], [of_other_images] * 3, temperature=0.5)
    assert float(actual[0]) == pytest.approx(expected, rel=1e-5)


def test_the_objective_excludes_own_views_only_for_images_among_the_negatives() -> None:
    train = random(6, 3, 8)
    excluding = SimCLR(latent_dim=4, negative_samples=5, exclude_self_from_negatives=True)
    heads = excluding.heads(8, seed=0)
    rows = excluding.negative_rows(6, seed=0)
    support = excluding.support(samples(6), lambda chosen: train[rows], heads, seed=0)
    inside, outside = train[rows[1]][None], train[np.setdiff1d(np.arange(6), rows)[0]][None]

    def loss(objective: SimCLR, views: Tensor) -> Tensor:
        return objective.loss(Encoded(views), heads, support)

    plain = SimCLR(latent_dim=4)
    assert not torch.allclose(loss(excluding, inside), loss(plain, inside))
    torch.testing.assert_close(loss(excluding, outside), loss(plain, outside))


def test_hard_negatives_come_first_and_are_not_drawn_again() -> None:
    rows = SimCLR(negative_samples=10, hard_negatives=(7, 3)).negative_rows(20, seed=0)
    assert rows[:2].tolist() == [7, 3]
    assert len(set(rows.tolist())) == 10
    all_rows = SimCLR(negative_samples=50, hard_negatives=(7,)).negative_rows(20, seed=0)
    assert sorted(all_rows.tolist()) == list(range(20))


def test_impossible_hard_negatives_are_refused() -> None:
    with pytest.raises(FungiError, match=r"there are 3 hard negatives, but simclr\.negative_samples is 2"):
        SimCLR(negative_samples=2, hard_negatives=(1, 2, 3))
    with pytest.raises(FungiError, match="outside the training split, which has 20 rows"):
        SimCLR(hard_negatives=(20,)).negative_rows(20, seed=0)


@pytest.mark.parametrize(("objective", "options"), [
    ("kl", {"normalize": False}), ("kl", {"project": False}), ("dino", {"project": False, "normalize": False}),
    ("simclr", {"normalize": True}), ("simclr", {"project": False, "normalize": True}),
])  # fmt: skip
def test_head_options_of_table_6_change_the_loss(objective: str, options: dict) -> None:
    from fungi.objectives import OBJECTIVES

    embeddings = random(3, 4, 8)
    support = {"negatives": random(5, 8 if options.get("project") is False else 96, seed=3)}
    plain, changed = OBJECTIVES[objective](), OBJECTIVES[objective](**options)
    heads = plain.heads(8, seed=0)
    actual = changed.loss(Encoded(embeddings), heads, support)
    assert actual.shape == (3,)
    assert torch.isfinite(actual).all()
    if "project" in options:  # the loss without a head equals the loss with an identity head
        plain_options = {name: value for name, value in options.items() if name != "project"}
        identity = torch.nn.ModuleDict({name: torch.nn.Identity() for name in heads})
        torch.testing.assert_close(
            actual, OBJECTIVES[objective](**plain_options).loss(Encoded(embeddings), identity, support)
        )
    else:
        assert not torch.allclose(actual, plain.loss(Encoded(embeddings), heads, support))
