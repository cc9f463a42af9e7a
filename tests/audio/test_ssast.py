"""SSAST: sizes, tokens, position embeddings on other grids, and the published checkpoint."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fungi.backbones.base import BACKBONES
from fungi.backbones.families.ssast import build
from fungi.backbones.loading import choose_input, load_backbone
from fungi.backbones.spectrogram_transformer import SpectrogramTransformer, adapted_positions
from fungi.errors import FungiError
from fungi.profiles import PROFILES
from tests.modalities.cases import SSAST

NAMES = ["patch-ssast", "patch-ssast-mean"]
SIZES = {"width": 32, "depth": 2, "heads": 2}


def published_checkpoint(width: int = 32, depth: int = 2) -> dict[str, Tensor]:
    """Return random weights with the names of the published checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {
        "v.cls_token": (1, 1, width),
        "v.dist_token": (1, 1, width),
        "v.pos_embed": (1, 514, width),  # two class tokens, and 8 x 64 patches
        "v.patch_embed.proj.weight": (width, 1, 16, 16),
        "v.patch_embed.proj.bias": (width,),
        "v.norm.weight": (width,),
        "v.norm.bias": (width,),
        "v.head.weight": (7, width),
        "v.head_dist.bias": (7,),
        "cpredlayer.0.weight": (width, width),
        "gpredlayer.2.bias": (256,),
        "mask_embed": (1, 1, width),
    }
    for index in range(depth):
        for layer, outputs, inputs in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {
                f"v.blocks.{index}.{layer}.weight": (outputs, inputs),
                f"v.blocks.{index}.{layer}.bias": (outputs,),
            }
        for norm in ("norm1", "norm2"):
            shapes |= {f"v.blocks.{index}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    state = {f"module.{name}": 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {"module.p_input_fdim": torch.tensor(128), "module.p_input_tdim": torch.tensor(1024)}


@pytest.fixture
def small_network(monkeypatch):
    """Replace the network of `patch-ssast` with a small network."""
    spec = replace(BACKBONES["patch-ssast"], build=lambda: build("cls_dist", SIZES))
    monkeypatch.setitem(BACKBONES._entries, "patch-ssast", spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_sizes_equal_the_paper(name):
    spec = BACKBONES[name]
    assert (spec.embedding_dim, spec.layer, spec.gradient_dim) == (768, "blocks.11.attn.proj", 590592)
    assert (spec.projection_dim, spec.pca_dim) == (768, 512)
    with torch.device("meta"):
        model = spec.build()
    assert tuple(model.get_submodule(spec.layer).weight.shape) == (768, 768)
    assert 85e6 < sum(parameter.numel() for parameter in model.parameters()) < 90e6
    assert model(torch.empty(2, 128, 128, device="meta")).shape == (2, 768)


@pytest.mark.parametrize(("frames", "tokens"), [(512, 602), (128, 146)])
def test_the_number_of_tokens_equals_the_paper(frames, tokens):
    model = SpectrogramTransformer(**SSAST)
    assert model.tokens(torch.zeros(1, frames, 128)).shape == (1, tokens, 24)


def test_tokens_are_ordered_by_frequency_and_then_by_time():
    model = SpectrogramTransformer(**SSAST)
    silent, loud = torch.zeros(1, 128, 128), torch.zeros(1, 128, 128)
    loud[:, :16, 100:] = 1  # the first frames, and the high mel bins
    differences = (model.tokens(loud) - model.tokens(silent)).abs().sum(dim=(0, 2))[2:].reshape(12, 12)
    rows, columns = torch.nonzero(differences > 0, as_tuple=True)
    assert rows.min() == 9  # the patch of the mel bins from 90 to 105
    assert columns.max() == 1  # the patch of the frames from 10 to 25


def test_positions_are_added_to_the_tokens():
    model = SpectrogramTransformer(**SSAST)
    sounds, change = torch.randn(1, 128, 128), torch.randn_like(model.pos_embed[:, :2])
    tokens = model.tokens(sounds)
    model.pos_embed.data[:, :2] += change
    torch.testing.assert_close(model.tokens(sounds)[:, :2] - tokens[:, :2], change)


def test_the_embedding_is_the_mean_of_the_first_two_tokens_or_of_the_patches():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SpectrogramTransformer(**SSAST).eval()
        sounds = torch.randn(2, 128, 128)
    hidden = model.norm(model.blocks(model.tokens(sounds)))
    torch.testing.assert_close(model(sounds), (hidden[:, 0] + hidden[:, 1]) / 2)
    model.pooling = "mean_patches"
    torch.testing.assert_close(model(sounds), hidden[:, 2:].mean(dim=1))


def test_position_embeddings_do_not_change_for_the_grid_of_the_training():
    positions = torch.randn(1, 514, 6)
    assert torch.equal(adapted_positions(positions, (8, 64)), positions)


@pytest.mark.parametrize(("time", "first"), [(50, 7), (12, 26), (63, 1), (1, 32)])
def test_a_shorter_time_axis_uses_the_centre_of_the_position_embeddings(time, first):
    positions = torch.randn(1, 514, 6)
    table = positions[:, 2:].reshape(1, 8, 64, 6)
    adapted = adapted_positions(positions, (8, time))
    assert torch.equal(adapted[:, 2:].reshape(1, 8, time, 6), table[:, :, first : first + time])
    assert torch.equal(adapted[:, :2], positions[:, :2])


def test_a_longer_frequency_axis_is_resized_bilinearly():
    positions = torch.randn(1, 514, 6)
    adapted = adapted_positions(positions, (12, 50))[:, 2:].reshape(12, 50, 6)
    table = positions[0, 2:].reshape(8, 64, 6)[:, 7:57]
    for row in range(12):
        source = (row + 0.5) * 8 / 12 - 0.5  # half-pixel centres, not aligned corners
        low = min(max(int(source // 1), 0), 7)
        high = min(low + 1, 7)
        weight = min(max(source - low, 0.0), 1.0)
        torch.testing.assert_close(adapted[row], (1 - weight) * table[low] + weight * table[high], rtol=1e-4, atol=1e-5)


def test_the_published_checkpoint_loads_without_missing_weights(small_network, tmp_path):
    state = published_checkpoint()
    torch.save(state, tmp_path / "ssast.pth")
    backbone = load_backbone("patch-ssast", checkpoint=tmp_path / "ssast.pth")
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, state[f"module.v.{name}"])


def test_kernels_of_several_channels_are_summed(small_network, tmp_path):
    state = published_checkpoint()
    kernel = torch.randn(32, 3, 16, 16)
    torch.save(state | {"module.v.patch_embed.proj.weight": kernel}, tmp_path / "ssast.pth")
    backbone = load_backbone("patch-ssast", checkpoint=tmp_path / "ssast.pth")
    assert torch.equal(backbone.model.patch_embed["proj"].weight, kernel.sum(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module.v.norm.bias": None}, r"1 missing \(norm.bias\)"),
        ({"module.v.extra": torch.zeros(1)}, r"1 unexpected \(extra\)"),
        ({"module.p_input_tdim": torch.tensor(512)}, r"p_input_tdim = 512; only 1024 is supported"),
        ({"module.v.pos_embed": torch.zeros(1, 10, 32)}, r"pos_embed is \[1, 10, 32\] instead of \[1, 514, 32\]"),
    ],
)
def test_other_checkpoints_are_refused(small_network, tmp_path, change, message):
    state = {name: tensor for name, tensor in (published_checkpoint() | change).items() if tensor is not None}
    torch.save(state, tmp_path / "ssast.pth")
    with pytest.raises(FungiError, match=message):
        load_backbone("patch-ssast", checkpoint=tmp_path / "ssast.pth")


def test_the_published_profile_differs_in_temperature_and_tokens():
    spec = BACKBONES["patch-ssast"]
    clean, published = (choose_input(spec, PROFILES[name]) for name in ("clean", "published"))
    assert (clean.denominator_temperature, published.denominator_temperature) == (True, False)
    assert clean.noise_stage == published.noise_stage == "before_norm"
    assert spec.first_token_gradient
    assert (PROFILES["clean"].first_token_gradient, PROFILES["published"].first_token_gradient) == (False, True)
    expected_settings = {"view_generator": "noisy-shifts", "latent_dim": 768, "negative_samples": 64}
    assert expected_settings.items() <= clean.objective_defaults("simclr").items()


def test_only_class_token_pooling_uses_the_gradient_of_the_first_token():
    assert {name for name in BACKBONES if BACKBONES[name].first_token_gradient} == {"patch-ssast", "tiny-ssast"}
