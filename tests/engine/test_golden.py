"""Our gradients equal the authors' and plain autograd's on the reference networks."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.engine.golden import Given, engine, load, tasks

OBJECTIVES = ("kl", "dino", "simclr")
CLOSE = 0.99999


def features(kind: str, objective: str, **settings: object) -> torch.Tensor:
    golden = load(kind)
    task = tasks(golden)[objective]
    made = engine(kind, golden, **settings).extract(task.views, Given(task.views.shape[1]), {objective: task.loss})
    return made.gradients[objective]["attn_proj"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("short_cut", [True, False], ids=["pooled token", "whole model"])
@pytest.mark.parametrize("reference", ["feature", "true_feature"])
def test_timm_features_equal_the_published_ones_and_autograd(objective: str, short_cut: bool, reference: str) -> None:
    made = features("timm", objective, short_cut=short_cut)
    assert cosine_similarity(made, load("timm")[f"{reference}/{objective}"].float()).min() > CLOSE


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_clean_torchvision_features_equal_autograd(objective: str) -> None:
    made = features("torchvision", objective)
    assert cosine_similarity(made, load("torchvision")[f"true_feature/{objective}"].float()).min() > CLOSE


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_published_torchvision_features_pair_signals_with_the_attention_input(objective: str) -> None:
    made = features("torchvision", objective, attention_input=True)
    published = load("torchvision")[f"feature/{objective}"]
    assert cosine_similarity(made, published).min() > CLOSE
    assert cosine_similarity(features("torchvision", objective), published).max() < 0.9


def test_the_short_cut_is_taken_where_it_applies() -> None:
    assert engine("timm", load("timm")).encoder.path == "pooled token"
    assert engine("timm", load("timm"), short_cut=False).encoder.path == "whole model"
    assert engine("torchvision", load("torchvision")).encoder.path == "whole model"


def test_embeddings_of_both_paths_agree() -> None:
    golden = load("timm")
    views = Given(25)
    pooled = engine("timm", golden).embed(golden["views"], views)
    whole = engine("timm", golden, short_cut=False).embed(golden["views"], views)
    torch.testing.assert_close(pooled, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
