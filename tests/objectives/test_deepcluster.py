"""The DeepCluster loss, the assignment to clusters, and k-means equal slow loops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fungi.backbones.encoders import Encoded
from fungi.data.base import Samples, open_split
from fungi.errors import FungiError
from fungi.objectives.binding import bind
from fungi.objectives.deepcluster import DeepCluster, assign, k_means
from fungi.views.image import ImageInput
from fungi.views.loading import batches
from tests.runtime.additions import NoAtomicAdditions


def embeddings(samples: int, views: int, seed: int = 0) -> Tensor:
    """Return random embeddings, `[samples views 7]`."""
    return torch.randn(samples, views, 7, generator=torch.Generator().manual_seed(seed))


def fitted_prototypes(**options: int) -> tuple[DeepCluster, torch.nn.ModuleDict, dict[str, Tensor]]:
    """Return an objective, its heads, and the prototypes of 20 random images."""
    objective = DeepCluster(latent_dim=5, prototypes=4, **options)
    heads = objective.heads(embedding_dim=7, seed=1)
    train = Samples(np.zeros(20, dtype=np.uint32), [str(row) for row in range(20)], load=lambda row: row)
    return objective, heads, objective.support(train, lambda samples: embeddings(len(samples), 2, 5), heads, seed=1)


def test_the_loss_is_the_mean_cross_entropy_of_crops_and_prototype_heads() -> None:
    objective, heads, support = fitted_prototypes()
    inputs = embeddings(3, 10)
    weight = heads["head"].weight
    for sample, loss in zip(inputs, objective.loss(Encoded(inputs), heads, support), strict=True):
        latents = [row @ weight.T / (row @ weight.T).norm() for row in sample]
        terms = []
        for head in range(3):
            target = max(range(4), key=lambda k: float(support["prototypes"][head][k] @ latents[head % 2]))
            for crop in latents[2:]:
                scores = [float(prototype @ crop) / 0.1 for prototype in support["prototypes"][head]]
                terms.append(math.log(sum(map(math.exp, scores))) - scores[target])
        assert len(terms) == 24
        assert float(loss) == pytest.approx(sum(terms) / 24, rel=1e-5)


def test_no_gradient_flows_through_the_crops_that_choose_the_targets() -> None:
    """The first two views are these crops."""
    objective, heads, support = fitted_prototypes()
    inputs = embeddings(2, 10).requires_grad_()
    objective.loss(Encoded(inputs), heads, support).sum().backward()
    assert inputs.grad[:, :2].abs().max() == 0
    assert (inputs.grad[:, 2:].abs().amax(dim=2) > 0).all()


def test_the_head_has_rows_of_length_one_and_no_bias() -> None:
    head = DeepCluster().heads(16, seed=0)["head"]
    assert head.bias is None
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(128))


@pytest.mark.also_with_two_threads
def test_k_means_equals_slow_k_means() -> None:
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    actual = k_means(rows, count=6, iterations=10, generator=torch.Generator().manual_seed(2))
    prototypes = rows[torch.randperm(40, generator=torch.Generator().manual_seed(2))[:6]].clone()
    for _ in range(10):
        members = [max(range(6), key=lambda k: float(prototypes[k] @ row)) for row in rows]
        for cluster in set(members):
            cluster_rows = [row for row, member in zip(rows, members, strict=True) if member == cluster]
            prototypes[cluster] = torch.stack(cluster_rows).mean(dim=0)
    torch.testing.assert_close(actual, prototypes, rtol=1e-4, atol=1e-5)


def test_k_means_adds_in_a_fixed_order_on_a_gpu() -> None:
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    with NoAtomicAdditions():
        k_means(rows, count=6, iterations=3, generator=torch.Generator().manual_seed(2))
    with pytest.raises(AssertionError, match="index_add_"), NoAtomicAdditions():
        torch.zeros(2).index_add_(0, torch.zeros(3, dtype=torch.int64), torch.ones(3))


def test_the_crops_of_k_means_are_the_first_views_of_the_loss() -> None:
    """Therefore, the loss assigns a train image to the same cluster as k-means."""
    samples = open_split("digits", "train", Path()).take(range(5))
    bound = bind("deepcluster", embedding_dim=8, input_spec=ImageInput(size=32, resize=32), seed=3)

    def views(generator: object) -> Tensor:
        (batch,) = batches(samples, [generator], [range(5)], seed=3, num_workers=0)
        return batch[generator.identity]

    assert bound.views.n_views == 10
    assert torch.equal(views(bound.support_views), views(bound.views)[:, :2])


@pytest.mark.also_with_two_threads
def test_assignment_in_parts_equals_assignment_at_once() -> None:
    rows, prototypes = torch.randn(9000, 4), torch.randn(5, 4)
    assert torch.equal(assign(rows, prototypes), (rows @ prototypes.T).argmax(dim=1))


@pytest.mark.also_with_two_threads
def test_prototypes_differ_between_prototype_heads_and_repeat_with_the_seed() -> None:
    _, _, first = fitted_prototypes()
    _, _, second = fitted_prototypes()
    assert torch.equal(first["prototypes"], second["prototypes"])
    assert first["prototypes"].shape == (3, 4, 5)
    assert not torch.equal(first["prototypes"][0], first["prototypes"][2])  # the same crop, but other initial rows


def test_more_prototypes_than_images_are_refused() -> None:
    train = Samples(np.zeros(9, dtype=np.uint32), [str(row) for row in range(9)], load=lambda row: row)
    objective = DeepCluster(prototypes=3000)
    with pytest.raises(FungiError, match="prototypes is 3000, but there are only 9 train images"):
        objective.support(train, lambda samples: embeddings(9, 2), objective.heads(embedding_dim=7, seed=0), seed=0)
    with pytest.raises(FungiError, match="has to be at least 0"):
        DeepCluster(prototypes=-1)


@pytest.mark.parametrize(("images", "prototypes"), [(126_689, 3000), (1257, 125), (9, 1)])
def test_small_datasets_get_fewer_prototypes(images: int, prototypes: int) -> None:
    assert DeepCluster().prototypes_for(images) == prototypes


def test_there_may_be_as_many_prototypes_as_images() -> None:
    assert DeepCluster(prototypes=5).prototypes_for(5) == 5
    with pytest.raises(FungiError, match="prototypes is 5, but there are only 4 train images"):
        DeepCluster(prototypes=5).prototypes_for(4)
