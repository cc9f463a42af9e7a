"""Loading of backbones: formats, strict checks, hashes and seeds."""

import pytest
import torch
from torch import nn

from fungi.backbones.checkpoints import hash_weights
from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError
from fungi.profiles import PROFILES
from tests.backbones.small import SMALL, random_state, save, shrink, torchvision_shapes, vit_shapes

# The loaded backbone


def test_the_model_is_frozen_and_in_evaluation_mode(small_backbone):
    backbone = load_backbone(SMALL, random_init=True)
    assert not any(module.training for module in backbone.model.modules())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("profile", ["clean", "published"])
def test_the_profile_decides_the_input(small_backbone, profile):
    backbone = load_backbone(SMALL, random_init=True, profile=PROFILES[profile])
    assert (backbone.input.view_statistics is None) == (profile == "clean")
    assert backbone.spec.name == SMALL


@pytest.mark.parametrize("file", ["w.pth", "w.pt", "w.pth.tar", "w.bin", "w.safetensors"])
def test_every_kind_of_file_gives_the_same_weights(small_backbone, tmp_path, file):
    state = random_state(vit_shapes())
    backbone = load_backbone(SMALL, checkpoint=save(tmp_path, state, file))
    assert all(torch.equal(backbone.model.state_dict()[name], tensor) for name, tensor in state.items())
    assert backbone.weights_source == f"checkpoint {tmp_path / file}"


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("model", "state_dict")])
def test_containers_of_training_programs_are_unwrapped(small_backbone, tmp_path, keys):
    content = random_state(vit_shapes())
    expected = load_backbone(SMALL, checkpoint=save(tmp_path, content)).weights_hash
    for key in keys:
        content = {key: content, "epoch": 3, "args": {"lr": 0.1}}
    assert load_backbone(SMALL, checkpoint=save(tmp_path, content)).weights_hash == expected


def test_published_names_and_names_of_the_model_give_the_same_weights(tmp_path, monkeypatch):
    shrink(monkeypatch, "vit-b16")
    published = load_backbone("vit-b16", checkpoint=save(tmp_path, random_state(torchvision_shapes())))
    with_names_of_model = save(tmp_path, published.model.state_dict(), "converted.pth")
    assert load_backbone("vit-b16", checkpoint=with_names_of_model).weights_hash == published.weights_hash


def test_weights_in_half_precision_become_float32(small_backbone, tmp_path):
    state = {name: tensor.half() for name, tensor in random_state(vit_shapes()).items()}
    backbone = load_backbone(SMALL, checkpoint=save(tmp_path, state))
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.float32}
    assert torch.equal(backbone.model.cls_token, state["cls_token"].float())


class ComputedTensors(nn.Module):
    """A model with a parameter, and with two tensors that are not in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("angles", torch.arange(3.0), persistent=False)
        self.offsets = torch.arange(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.angles + self.offsets


@pytest.mark.parametrize("removed_tensor", [None, "angles", "offsets"])
def test_tensors_outside_the_state_dict_are_computed(monkeypatch, tmp_path, removed_tensor):
    """A model is usually built on the meta device, without values. One tensor outside the state dict prevents this."""

    def build() -> nn.Module:
        model = ComputedTensors()
        if removed_tensor:
            delattr(model, removed_tensor)
        return model

    shrink(monkeypatch, SMALL, build)
    backbone = load_backbone(SMALL, checkpoint=save(tmp_path, {"weight": torch.ones(3)}))
    tensors = [getattr(backbone.model, name) for name in ("weight", "angles", "offsets") if name != removed_tensor]
    assert not any(tensor.is_meta for tensor in tensors)
    if not removed_tensor:
        expected = torch.ones(3) + torch.arange(3.0) + torch.arange(3.0)
        assert torch.equal(backbone.model(torch.ones(3)), expected)


def test_loaded_weights_are_contiguous_parameters(small_backbone, tmp_path):
    backbone = load_backbone(SMALL, checkpoint=save(tmp_path, random_state(vit_shapes())))
    assert all(parameter.is_contiguous() for parameter in backbone.model.parameters())
    assert isinstance(backbone.model.cls_token, nn.Parameter)


# Weights that do not fit are refused.


def test_missing_weights_are_refused_and_named(small_backbone, tmp_path):
    state = random_state(vit_shapes())
    del state["norm.weight"], state["blocks.1.attn.proj.bias"]
    with pytest.raises(
        FungiError, match=r"does not fit backbone 'dino_vitb16': 2 missing \(.*norm\.weight.*\)\. Use"
    ) as error:
        load_backbone(SMALL, checkpoint=save(tmp_path, state))
    assert "blocks.1.attn.proj.bias" in str(error.value)
    assert "\n" not in str(error.value)


def test_unexpected_weights_are_refused_and_named(small_backbone, tmp_path):
    state = random_state(vit_shapes()) | {f"extra.{index}": torch.zeros(1) for index in range(5)}
    with pytest.raises(FungiError, match=r"5 unexpected \(extra\.0, extra\.1, extra\.2, \.\.\.\)"):
        load_backbone(SMALL, checkpoint=save(tmp_path, state))


def test_weights_of_another_shape_are_refused_and_named(small_backbone, tmp_path):
    state = random_state(vit_shapes()) | {"norm.bias": torch.zeros(7)}
    with pytest.raises(FungiError, match=r"1 of another shape \(norm\.bias is \[7\] instead of \[32\]\)"):
        load_backbone(SMALL, checkpoint=save(tmp_path, state))


@pytest.mark.parametrize("name", ["vit-b16", "vit-b16-mocov3", "dinov2_vitb14", "mocov2-resnet50"])
def test_weights_of_another_family_are_refused(name, tmp_path, monkeypatch):
    shrink(monkeypatch, name)
    with pytest.raises(FungiError, match=f"does not fit backbone '{name}': .* missing .* unexpected"):
        load_backbone(name, checkpoint=save(tmp_path, {"layer.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}))


@pytest.mark.parametrize(
    "name",
    [
        "vit-s16",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("clip-vit-b16", "eva-clip-vit-b16", "mobileclip-s1", "clip-resnet50")
        ),
    ],
)
def test_errors_inside_the_converters_of_libraries_become_one_line(name, tmp_path):
    invalid_state = {
        "pos_embed": torch.zeros(3),
        "patch_embed.proj.weight": torch.zeros(2),
        "visual.conv1.weight": torch.zeros(1),
    }
    # Models on the meta device are built in a short time.
    with torch.device("meta"), pytest.raises(FungiError, match=f"does not fit (backbone )?'{name}'") as error:
        load_backbone(name, checkpoint=save(tmp_path, invalid_state))
    assert "\n" not in str(error.value)


# Hashes and seeds


def test_the_hash_changes_if_and_only_if_the_weights_change(small_backbone, tmp_path):
    state = random_state(vit_shapes())
    reversed_state = dict(reversed(state.items()))
    weights_hash = load_backbone(SMALL, checkpoint=save(tmp_path, state, "a.pth")).weights_hash
    same_weights = load_backbone(SMALL, checkpoint=save(tmp_path, reversed_state, "b.safetensors"))
    assert same_weights.weights_hash == weights_hash
    state["norm.bias"][3] = torch.nextafter(state["norm.bias"][3], torch.tensor(9.0))
    other_weights = load_backbone(SMALL, checkpoint=save(tmp_path, state, "c.pth"))
    assert other_weights.weights_hash != weights_hash


def test_the_hash_depends_on_names_shapes_and_dtypes():
    def hash_of(name, tensor):
        module = nn.Module()
        module.register_buffer(name, tensor)
        return hash_weights(module)

    zeros = torch.zeros(2, 2)
    hashes = {
        hash_of("a", zeros),
        hash_of("b", zeros),
        hash_of("a", zeros.flatten()),
        hash_of("a", zeros.int()),
        hash_of("a", zeros.bfloat16()),
        hash_of("a", zeros[0, 0]),
    }
    assert len(hashes) == 6
    assert hash_of("a", torch.zeros(2, 4)[:, ::2]) == hash_of("a", zeros)  # other strides, the same values


def test_random_initialisation_depends_only_on_the_seed(small_backbone):
    backbone = load_backbone(SMALL, random_init=True, seed=1)
    torch.rand(7)  # changes the global random state
    same_seed = load_backbone(SMALL, random_init=True, seed=1)
    other_seed = load_backbone(SMALL, random_init=True, seed=2)
    assert same_seed.weights_hash == backbone.weights_hash
    assert other_seed.weights_hash != backbone.weights_hash
    assert backbone.weights_source == "random initialisation, seed 1"


@pytest.mark.parametrize("random_init", [True, False])
def test_loading_does_not_change_the_global_random_state(random_init):
    state = torch.get_rng_state()
    load_backbone("digits-vit", random_init=random_init)
    assert torch.equal(torch.get_rng_state(), state)
