"""Reading and writing checkpoints in the published layouts (spec udi 6, and test 9 of section 9.4)."""

import argparse
from pathlib import Path

import pytest
import torch

from fungi.backbones.base import BACKBONES
from fungi.backbones.families.udi import encoder_state, one_token, patches_only
from fungi.backbones.loading import load_backbone
from fungi.backbones.pooled_token import pooled_token_encoder
from fungi.errors import FungiError
from fungi.pretraining.udi.checkpoints import load_checkpoint, save_checkpoint
from tests.pretraining.small import first_batches, learner_of, schedule, settings

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return a transformer of timm, and its weights with published names: both class tokens are one tensor."""
    torch.manual_seed(3)
    model = BACKBONES["udi-micro"].build().eval()
    flat = dict(model.state_dict())
    flat["cls_token"] = torch.cat([flat["cls_token"], flat.pop("reg_token")], dim=1)
    return model, flat


def contents_by_layout(flat: dict[str, torch.Tensor]) -> dict[str, object]:
    """Return layout -> content of a file, as the published programs write them (spec udi 6.1, 6.2)."""
    zeros = {name: torch.zeros_like(tensor) for name, tensor in flat.items()}
    srs = {"backbone.norm1.weight": torch.ones(64), "backbone.attn.qkv.weight": torch.ones(192, 64)}
    heads = {f"head.{slot}.mlp.0.weight": torch.ones(8, 64) for slot in range(3)}

    def nested(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"backbone.backbone.{name}": tensor for name, tensor in state.items()} | srs | heads

    student = {f"module.{name}": tensor for name, tensor in nested(zeros).items()}
    arguments = argparse.Namespace(arch="vit_small", epochs=300)
    full = {"student": student, "teacher": nested(flat), "epoch": 300, "args": arguments, "optimizer": {"state": {}}}
    return {
        "full": full | {"udi_loss": {"centering.center": torch.zeros(3, 8)}, "fp16_scaler": {"scale": 65536.0}},
        "teacher": {"teacher": nested(flat)},
        "module": {"state_dict": {f"module.{name}": tensor for name, tensor in nested(flat).items()}},
        "one backbone": {f"backbone.{name}": tensor for name, tensor in flat.items()},
        "two backbones": {f"backbone.backbone.{name}": tensor for name, tensor in flat.items()},
        "flat": flat,
    }


@pytest.mark.parametrize("layout", ["full", "teacher", "module", "one backbone", "two backbones", "flat"])
def test_a_file_of_any_published_layout_gives_the_features_of_timm(published, layout, tmp_path) -> None:
    model, flat = published
    torch.save(contents_by_layout(flat)[layout], tmp_path / "file.pth")
    loaded = load_backbone("udi-micro", checkpoint=tmp_path / "file.pth").model
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), model(IMAGES))
        short_cut = pooled_token_encoder(loaded, ["blocks.2.attn.proj"])
        assert short_cut is not None
        torch.testing.assert_close(short_cut(IMAGES).pooled, model(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_our_checkpoint_is_read_as_a_backbone_and_by_a_run_that_continues(tmp_path) -> None:
    run_settings = settings(patch_size=4, drop_path_rate=0.0)
    learner = learner_of(run_settings)
    (first, second) = first_batches(run_settings, 2)
    learner.step(first, schedule())
    save_checkpoint(tmp_path / "checkpoint.pth", learner, epoch=0, arguments={"arch": "vit_micro"}, run={"step": 1})
    backbone = load_backbone("udi-micro", checkpoint=tmp_path / "checkpoint.pth").model
    with torch.no_grad():
        assert torch.equal(backbone(IMAGES), learner.teacher.backbone.backbone(IMAGES))
    other_learner = learner_of(settings(patch_size=4, drop_path_rate=0.0, seed=5))
    assert load_checkpoint(tmp_path / "checkpoint.pth", other_learner)["step"] == 1
    assert learner.step(second, schedule(1)) == other_learner.step(second, schedule(1))


def test_checkpoints_are_written_in_the_published_layout(tmp_path) -> None:
    learner = learner_of(settings())
    save_checkpoint(tmp_path / "checkpoint.pth", learner, epoch=3, arguments={"arch": "vit_micro"}, run={})
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert {"student", "teacher", "optimizer", "epoch", "args", "udi_loss"} <= set(content)
    assert all(name.startswith("module.") for name in content["student"])
    expected = {"backbone.backbone.cls_token": [1, 2, 64], "backbone.backbone.pos_embed": [1, 18, 64]}
    expected |= {"backbone.norm1.weight": [64], "backbone.attn.qkv.weight": [192, 64], "backbone.attn.norm.bias": [64]}
    expected |= {f"head.{slot}.mlp.4.weight": [12, 24] for slot in range(3)}
    expected |= {f"head.{slot}.last_layer.weight_g": [32, 1] for slot in range(3)}
    for name, shape in expected.items():
        assert list(content["teacher"][name].shape) == shape, name
    assert not any("reg_token" in name for name in content["teacher"])
    assert list(content["udi_loss"]["centering.center"].shape) == [3, 32]


def test_a_file_with_another_number_of_class_tokens_needs_another_backbone(published, tmp_path) -> None:
    _, flat = published
    torch.save(one_token(flat), tmp_path / "one.pth")
    with pytest.raises(FungiError, match="Use --backbone udi-micro-one-token"):
        load_backbone("udi-micro", checkpoint=tmp_path / "one.pth")
    assert load_backbone("udi-micro-one-token", checkpoint=tmp_path / "one.pth").model(IMAGES).shape == (3, 64)
    torch.save(flat, tmp_path / "two.pth")
    with pytest.raises(FungiError, match="has 2 class tokens, but udi-micro-one-token has 1"):
        load_backbone("udi-micro-one-token", checkpoint=tmp_path / "two.pth")


def test_removing_class_tokens_removes_their_positions() -> None:
    flat = {"cls_token": torch.randn(1, 2, 384), "pos_embed": torch.randn(1, 198, 384)}
    single, patches = one_token(flat), patches_only(flat)
    assert torch.equal(single["cls_token"], flat["cls_token"][:, :1])
    assert torch.equal(single["pos_embed"], flat["pos_embed"][:, [0, *range(2, 198)]])
    assert torch.equal(patches["pos_embed"], flat["pos_embed"][:, 2:])
    assert set(patches) == {"pos_embed"}
    timm_state = {
        "cls_token": flat["cls_token"][:, :1],
        "reg_token": flat["cls_token"][:, 1:],
        "pos_embed": flat["pos_embed"],
    }
    assert torch.equal(one_token(timm_state)["pos_embed"], single["pos_embed"])


def test_layers_outside_the_transformer_are_not_read_as_layers_of_the_transformer(published) -> None:
    """The SRS layer also has parts with the names `norm1` and `attn`."""
    _, flat = published
    full = contents_by_layout(flat)["full"]
    assert isinstance(full, dict)
    assert set(encoder_state(full["teacher"])) == set(flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat | {"blocks.0.norm1.bias": torch.zeros(65)}, "of another shape"),
        (lambda flat: {name: tensor for name, tensor in flat.items() if name != "norm.bias"}, "missing"),
        (lambda flat: flat | {"blocks.3.norm1.bias": torch.zeros(64)}, "unexpected"),
        (lambda flat: flat | {"cls_token": torch.zeros(1, 3, 64)}, "3 class tokens"),
        (lambda _: {"weight": torch.zeros(3)}, "no cls_token"),
    ],
)
def test_a_file_that_does_not_fit_the_backbone_is_refused(published, change, message, tmp_path) -> None:
    torch.save(change(dict(published[1])), tmp_path / "file.pth")
    with pytest.raises(FungiError, match=message):
        load_backbone("udi-micro", checkpoint=tmp_path / "file.pth")


def test_a_file_with_code_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (print, ("this code must not run",))

    torch.save({"teacher": {"cls_token": torch.zeros(1)}, "args": Harmful()}, tmp_path / "file.pth")
    with pytest.raises(FungiError, match="could run code"):
        load_backbone("udi-micro", checkpoint=tmp_path / "file.pth")
