"""Loading: strict, safe, offline, reproducible."""

import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fungi.backbones.base import BACKBONES
from fungi.backbones.checkpoints import hash_weights, unwrap
from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError, MissingFilesError
from fungi.profiles import PROFILES
from fungi.runtime.seeds import seeded
from tests.backbones.small import random_state, shrink, timm_vit, torchvision_shapes, vit_shapes

NAME = "dino_vitb16"


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch, NAME)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Empty caches, and a network that answers nobody."""
    import huggingface_hub.constants

    def refuse(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))


def save(folder, state, name="weights.pth"):
    (save_file if name.endswith("safetensors") else torch.save)(state, folder / name)
    return folder / name


# --- what comes out


def test_the_model_is_frozen_and_in_evaluation_mode(small):
    backbone = load_backbone(NAME, random_init=True)
    assert not any(module.training for module in backbone.model.modules())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("profile", ["clean", "published"])
def test_the_input_follows_the_profile(small, profile):
    backbone = load_backbone(NAME, random_init=True, profile=PROFILES[profile])
    assert (backbone.input.view_statistics is None) == (profile == "clean")
    assert backbone.spec.name == NAME


@pytest.mark.parametrize("file", ["w.pth", "w.pt", "w.pth.tar", "w.bin", "w.safetensors"])
def test_every_kind_of_file_gives_the_same_weights(small, tmp_path, file):
    state = random_state(vit_shapes())
    backbone = load_backbone(NAME, checkpoint=save(tmp_path, state, file))
    assert all(torch.equal(backbone.model.state_dict()[name], tensor) for name, tensor in state.items())
    assert backbone.weights_source == f"checkpoint {tmp_path / file}"


@pytest.mark.parametrize("wrap", [("state_dict",), ("model",), ("model", "state_dict")])
def test_containers_of_training_programs_are_unwrapped(small, tmp_path, wrap):
    content = random_state(vit_shapes())
    plain = load_backbone(NAME, checkpoint=save(tmp_path, content)).weights_hash
    for key in wrap:
        content = {key: content, "epoch": 3, "args": {"lr": 0.1}}
    assert load_backbone(NAME, checkpoint=save(tmp_path, content)).weights_hash == plain


def test_source_names_and_built_names_give_the_same_weights(tmp_path, monkeypatch):
    shrink(monkeypatch, "vit-b16")
    theirs = load_backbone("vit-b16", checkpoint=save(tmp_path, random_state(torchvision_shapes())))
    built = save(tmp_path, theirs.model.state_dict(), "built.pth")
    assert load_backbone("vit-b16", checkpoint=built).weights_hash == theirs.weights_hash


def test_half_precision_files_are_computed_with_in_float32(small, tmp_path):
    state = {name: tensor.half() for name, tensor in random_state(vit_shapes()).items()}
    backbone = load_backbone(NAME, checkpoint=save(tmp_path, state))
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.float32}
    assert torch.equal(backbone.model.cls_token, state["cls_token"].float())


class Computes(nn.Module):
    """Holds a parameter, and tensors that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("angles", torch.arange(3.0), persistent=False)
        self.offsets = torch.arange(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.angles + self.offsets


@pytest.mark.parametrize("left_out", [None, "angles", "offsets"])
def test_tensors_that_no_state_dict_has_are_computed(monkeypatch, tmp_path, left_out):
    def build() -> nn.Module:
        model = Computes()
        if left_out:
            delattr(model, left_out)
        return model

    shrink(monkeypatch, NAME, build)
    backbone = load_backbone(NAME, checkpoint=save(tmp_path, {"weight": torch.ones(3)}))
    held = [getattr(backbone.model, name) for name in ("weight", "angles", "offsets") if name != left_out]
    assert not any(tensor.is_meta for tensor in held)
    if not left_out:
        assert torch.equal(backbone.model(torch.ones(3)), torch.tensor([1.0, 3.0, 5.0]))


def test_a_loaded_model_is_no_view_of_the_file(small, tmp_path):
    """Weights are whole float32 tensors of their own, whatever layout the converter left."""
    backbone = load_backbone(NAME, checkpoint=save(tmp_path, random_state(vit_shapes())))
    assert all(parameter.is_contiguous() for parameter in backbone.model.parameters())
    assert isinstance(backbone.model.cls_token, nn.Parameter)


# --- strictness


def test_missing_weights_are_fatal_and_named(small, tmp_path):
    state = random_state(vit_shapes())
    del state["norm.weight"], state["blocks.1.attn.proj.bias"]
    with pytest.raises(
        FungiError, match=r"does not fit backbone 'dino_vitb16': 2 missing \(.*norm\.weight.*\)\. Use"
    ) as e:
        load_backbone(NAME, checkpoint=save(tmp_path, state))
    assert "blocks.1.attn.proj.bias" in str(e.value)
    assert "\n" not in str(e.value)


def test_unexpected_weights_are_fatal_and_named(small, tmp_path):
    state = random_state(vit_shapes()) | {f"extra.{index}": torch.zeros(1) for index in range(5)}
    with pytest.raises(FungiError, match=r"5 unexpected \(extra\.0, extra\.1, extra\.2, \.\.\.\)"):
        load_backbone(NAME, checkpoint=save(tmp_path, state))


def test_weights_of_another_shape_are_fatal_and_named(small, tmp_path):
    state = random_state(vit_shapes()) | {"norm.bias": torch.zeros(7)}
    with pytest.raises(FungiError, match=r"1 of another shape \(norm\.bias is \[7\] instead of \[32\]\)"):
        load_backbone(NAME, checkpoint=save(tmp_path, state))


@pytest.mark.parametrize("name", ["vit-b16", "vit-b16-mocov3", "dinov2_vitb14", "mocov2-resnet50"])
def test_weights_of_another_family_are_refused(name, tmp_path, monkeypatch):
    shrink(monkeypatch, name)
    with pytest.raises(FungiError, match=f"does not fit backbone '{name}': .* missing .* unexpected"):
        load_backbone(name, checkpoint=save(tmp_path, {"layer.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}))


@pytest.mark.parametrize("name", ["vit-s16", "clip-vit-b16", "eva-clip-vit-b16", "mobileclip-s1", "clip-resnet50"])
def test_what_a_foreign_converter_stumbles_over_is_said_in_one_line(name, tmp_path):
    broken = {
        "pos_embed": torch.zeros(3),
        "patch_embed.proj.weight": torch.zeros(2),
        "visual.conv1.weight": torch.zeros(1),
    }
    with torch.device("meta"), pytest.raises(FungiError, match=f"does not fit (backbone )?'{name}'") as e:
        load_backbone(name, checkpoint=save(tmp_path, broken))
    assert "\n" not in str(e.value)


# --- safety


class RunsCode:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_runs_code_is_refused(small, tmp_path, capsys):
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "payload": RunsCode()}, file)
    with pytest.raises(FungiError, match=r"evil\.pth holds more than tensors.*not read"):
        load_backbone(NAME, checkpoint=file)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    with pytest.raises(FungiError, match=r"raw\.pth .*not read"):
        load_backbone(NAME, checkpoint=tmp_path / "raw.pth")
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_a_truncated_file_is_said_to_be_damaged(small, tmp_path, file):
    path = save(tmp_path, random_state(vit_shapes()), file)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FungiError, match=f"{file} .*(Fetch it again|no checkpoint at all)"):
        load_backbone(NAME, checkpoint=path)


def test_a_missing_file_and_a_file_without_weights_are_said(small, tmp_path):
    with pytest.raises(MissingFilesError, match=r"there is no checkpoint .*nowhere\.pth.*--checkpoint"):
        load_backbone(NAME, checkpoint=tmp_path / "nowhere.pth")
    with pytest.raises(FungiError, match="holds no state dict"):
        load_backbone(NAME, checkpoint=save(tmp_path, {"epoch": 3}))


def test_checkpoint_and_random_init_exclude_each_other(small, tmp_path):
    with pytest.raises(FungiError, match="--checkpoint and --random-init exclude each other"):
        load_backbone(NAME, checkpoint=tmp_path / "w.pth", random_init=True)


# --- no network


SHIPPED = ("digits-vit", "efficientnet-lite0", "random-vit-b16")  # in this package, in another one, drawn
FETCHED = [name for name in BACKBONES if BACKBONES[name].pretrained is not None and name not in SHIPPED]


@pytest.mark.parametrize("name", [name for name in FETCHED if BACKBONES[name].modality == "vision"])
def test_without_a_network_the_error_names_the_weights_and_the_ways_out(name, no_network):
    with torch.device("meta"), pytest.raises(MissingFilesError) as e:  # meta: timm builds before it fetches
        load_backbone(name)
    text = str(e.value)
    assert "--checkpoint FILE" in text
    assert "\n" not in text
    if "https://" in text:
        assert f"put the file at {torch.hub.get_dir()}/checkpoints/" in text
    else:
        assert "huggingface.co/" in text
        assert "hf download" in text


@pytest.mark.parametrize("how", ["checkpoint", "random_init"])
def test_the_network_is_left_alone_unless_published_weights_are_asked_for(
    small, no_network, tmp_path, how, monkeypatch
):
    def fail(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    given = save(tmp_path, random_state(vit_shapes())) if how == "checkpoint" else True
    load_backbone(NAME, **{how: given})


def test_a_file_placed_where_the_error_says_is_used(small, no_network):
    with pytest.raises(MissingFilesError) as e:
        load_backbone(NAME)
    place = str(e.value).split("put the file at ")[1].split(", or pass")[0]
    torch.save(random_state(vit_shapes()), place)
    assert load_backbone(NAME).weights_source == f"published weights: {BACKBONES[NAME].source}"


def test_a_hub_file_in_the_cache_is_used_without_asking_the_network(no_network, monkeypatch, tmp_path):
    import huggingface_hub
    import timm

    asked = {}

    def create_model(name: str, **options: object) -> nn.Module:
        asked.update(options)
        return timm_vit()

    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repository, file: f"/cache/{repository}/{file}"
    )
    monkeypatch.setattr(timm, "create_model", create_model)
    BACKBONES["vit-s16"].pretrained()
    expected = "/cache/timm/vit_small_patch16_224.augreg_in1k/model.safetensors"
    assert asked["pretrained_cfg_overlay"] == {"file": expected}
    assert asked["pretrained"] is True


# --- hash and seeds


def test_the_hash_changes_if_and_only_if_the_weights_do(small, tmp_path):
    state = random_state(vit_shapes())
    first = load_backbone(NAME, checkpoint=save(tmp_path, state, "a.pth")).weights_hash
    again = load_backbone(NAME, checkpoint=save(tmp_path, dict(reversed(state.items())), "b.safetensors")).weights_hash
    state["norm.bias"][3] = torch.nextafter(state["norm.bias"][3], torch.tensor(9.0))
    other = load_backbone(NAME, checkpoint=save(tmp_path, state, "c.pth")).weights_hash
    assert first == again != other


def test_the_hash_sees_names_shapes_and_dtypes():
    def of(**tensors):
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return hash_weights(module)

    zeros = torch.zeros(2, 2)
    found = [
        of(a=zeros),
        of(b=zeros),
        of(a=zeros.flatten()),
        of(a=zeros.int()),
        of(a=zeros.bfloat16()),
        of(a=zeros[0, 0]),
    ]
    assert len(set(found)) == len(found)
    assert of(a=zeros) == of(a=torch.zeros(2, 4)[:, ::2])  # strides are no part of the value


def test_random_initialisation_depends_on_the_seed_alone(small):
    first = load_backbone(NAME, random_init=True, seed=1)
    torch.rand(7)
    second = load_backbone(NAME, random_init=True, seed=1)
    assert first.weights_hash == second.weights_hash != load_backbone(NAME, random_init=True, seed=2).weights_hash
    assert first.weights_source == "random initialisation, seed 1"


@pytest.mark.parametrize("random_init", [True, False])
def test_loading_leaves_the_global_random_state_alone(random_init):
    before = torch.get_rng_state()
    load_backbone("digits-vit", random_init=random_init)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_random_vit_is_drawn_once_and_kept(no_network, monkeypatch):
    from fungi.backbones.families import random_vit

    shrink(monkeypatch, "random-vit-b16")
    monkeypatch.setattr(random_vit, "_build", timm_vit)
    first = load_backbone("random-vit-b16", seed=1)
    assert random_vit.weights_file().exists()
    monkeypatch.setattr(random_vit, "_build", None)  # must not be needed again
    assert load_backbone("random-vit-b16", seed=2).weights_hash == first.weights_hash
    assert [path.name for path in random_vit.weights_file().parent.iterdir()] == [random_vit.weights_file().name]
    with seeded(42, "backbone", "random-vit-b16"):
        assert hash_weights(timm_vit()) == first.weights_hash


@pytest.mark.parametrize(
    "state",
    [
        {3: torch.zeros(2)},
        {"weight": torch.zeros(2), None: torch.zeros(2)},
        {"weight": torch.eye(2).to_sparse()},
        {"weight": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)},
        {"weight": torch.zeros(2, dtype=torch.complex64)},
        {"weight": torch.zeros(2, device="meta")},
    ],
    ids=["number", "none", "sparse", "quantised", "complex", "meta"],
)
def test_entries_that_are_no_plain_tensors_under_names_are_refused(state):
    with pytest.raises(FungiError, match=r"weights\.pth: its entry .* is no plain tensor under a name"):
        unwrap({"state_dict": state}, Path("weights.pth"))


def test_a_container_that_holds_itself_is_refused():
    endless: dict[str, object] = {}
    endless["model"] = endless
    with pytest.raises(FungiError, match=r"weights\.pth holds no state dict"):
        unwrap(endless, Path("weights.pth"))
