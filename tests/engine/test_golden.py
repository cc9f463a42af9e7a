"""Gradients of the reference networks equal those of the published code and of autograd.

`feature` in a reference file is the feature of the published code, `true_feature` the feature by autograd.
"""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from fungi.gradients.engine import GradientEngine
from fungi.gradients.targets import find_targets
from tests.engine.golden import PreparedViews, engine, load, tasks
from tests.engine.models import build, contrast

OBJECTIVES = ("kl", "dino", "simclr")
SMALLEST_COSINE = 0.99999  # rounding in float32


def features(kind: str, objective: str, **settings: object) -> torch.Tensor:
    """Return the projected gradients `[b p]` of a reference network for the reference views."""
    golden = load(kind)
    task = tasks(golden)[objective]
    views = PreparedViews(task.views.shape[1])
    extracted = engine(kind, golden, **settings).extract(task.views, views, {objective: task.loss})
    return extracted.gradients[objective]["attn_proj"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("short_cut", [True, False], ids=["pooled token", "whole model"])
@pytest.mark.parametrize("reference", ["feature", "true_feature"])
def test_timm_features_equal_those_of_the_published_code_and_of_autograd(
    objective: str, short_cut: bool, reference: str
) -> None:
    actual = features("timm", objective, short_cut=short_cut)
    assert cosine_similarity(actual, load("timm")[f"{reference}/{objective}"].float()).min() > SMALLEST_COSINE


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_clean_torchvision_features_equal_autograd(objective: str) -> None:
    actual = features("torchvision", objective)
    assert cosine_similarity(actual, load("torchvision")[f"true_feature/{objective}"].float()).min() > SMALLEST_COSINE


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_attention_input_gives_the_torchvision_features_of_the_published_code(objective: str) -> None:
    actual = features("torchvision", objective, attention_input=True)
    published = load("torchvision")[f"feature/{objective}"]
    assert cosine_similarity(actual, published).min() > SMALLEST_COSINE
    assert cosine_similarity(features("torchvision", objective), published).max() < 0.9


@pytest.mark.parametrize("short_cut", [True, False], ids=["pooled token", "whole model"])
def test_the_attention_input_changes_only_the_attention_projection(short_cut: bool) -> None:
    model, _ = build("attention projection, last block")
    targets = find_targets(model, ("blocks.1.mlp.fc1:fc1", "blocks.1.mlp.fc2:fc2", "blocks.1.attn.proj:proj"))
    views = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    clean, published = (
        GradientEngine(model, targets, device=torch.device("cpu"), attention_input=setting, short_cut=short_cut)
        .extract(views, PreparedViews(3), {"contrast": contrast})
        .gradients["contrast"]
        for setting in (False, True)
    )
    assert torch.equal(clean["fc1"], published["fc1"])
    assert torch.equal(clean["fc2"], published["fc2"])
    assert not torch.equal(clean["proj"], published["proj"])


def test_the_short_cut_is_used_if_the_model_allows_it() -> None:
    assert engine("timm", load("timm")).encoder.computed_part == "pooled token"
    assert engine("timm", load("timm"), short_cut=False).encoder.computed_part == "whole model"
    assert engine("torchvision", load("torchvision")).encoder.computed_part == "whole model"


def test_embeddings_of_both_paths_agree() -> None:
    golden = load("timm")
    views = PreparedViews(25)
    short_cut = engine("timm", golden).embed(golden["views"], views)
    expected = engine("timm", golden, short_cut=False).embed(golden["views"], views)
    torch.testing.assert_close(short_cut, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
