"""Exported backbones can be read by timm, transformers and the published code (spec udi 6.2, 6.3)."""

from pathlib import Path

import pytest
import torch

from fungi.backbones.base import BACKBONES
from fungi.backbones.checkpoints import read_checkpoint
from fungi.backbones.loading import load_backbone
from fungi.commands import COMMANDS
from fungi.pretraining.udi.checkpoints import save_checkpoint
from tests.pretraining.small import learner_of, settings

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def trained():
    """Return a learner whose student and teacher differ. No parameter has its initial value."""
    learner = learner_of(settings(patch_size=4))
    generator = torch.Generator().manual_seed(2)
    for network in (learner.student, learner.teacher):
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return learner


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoint.pth"
    save_checkpoint(path, trained, epoch=1, arguments={"arch": "vit_micro"}, run={})
    return path


def tokens_of(network) -> torch.Tensor:
    """Return all tokens `[n t d]`, by the forward pass of timm."""
    with torch.no_grad():
        return network.eval().forward_features(IMAGES)


def export(checkpoint: Path, output: Path, *flags: str) -> int:
    """Run `fungi udi export-backbone`, and return the exit status."""
    return COMMANDS["export-backbone"].main(["--checkpoint", str(checkpoint), "--output", str(output), *flags])


def test_timm_reads_the_exported_folder_and_computes_the_same_features(trained, checkpoint, tmp_path, capsys) -> None:
    import timm
    from timm.data import resolve_model_data_config

    assert export(checkpoint, tmp_path / "timm", "--layout", "timm") == 0
    assert f'timm.create_model("local-dir:{tmp_path / "timm"}", pretrained=True)' in capsys.readouterr().out
    loaded = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert torch.equal(tokens_of(loaded), tokens_of(trained.teacher.backbone.backbone))
    assert torch.equal(loaded(IMAGES), tokens_of(loaded)[:, 0])
    transform = resolve_model_data_config(loaded)
    expected = BACKBONES["udi-micro"].input.statistics
    assert (tuple(transform["mean"]), tuple(transform["std"])) == expected
    assert (transform["input_size"], transform["interpolation"]) == ((3, 32, 32), "bicubic")


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "class_name"), [(2, "Dinov2WithRegistersModel"), (1, "ViTModel")])
def test_transformers_reads_the_exported_folder_and_computes_the_same_tokens(
    trained, checkpoint, tokens, class_name, tmp_path
) -> None:
    from transformers import AutoModel

    assert export(checkpoint, tmp_path / "exported.pth", "--class-tokens", str(tokens)) == 0
    suffix = "-one-token" if tokens == 1 else ""
    expected = tokens_of(load_backbone(f"udi-micro{suffix}", checkpoint=tmp_path / "exported.pth").model)
    assert export(tmp_path / "exported.pth", tmp_path / "hf", "--layout", "transformers") == 0
    loaded = AutoModel.from_pretrained(tmp_path / "hf").eval()
    assert type(loaded).__name__ == class_name
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGES).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_exported_folder_can_be_loaded_as_the_users_own_backbone(trained, checkpoint, tmp_path) -> None:
    """`NAME=hf:FOLDER` has the same input as `--backbone udi-micro`, except for the resizing of images."""
    assert export(checkpoint, tmp_path / "hf", "--layout", "transformers") == 0
    backbone = load_backbone(f"mine=hf:{tmp_path / 'hf'}")
    with torch.no_grad():
        tokens = backbone.model(IMAGES)
    torch.testing.assert_close(tokens, tokens_of(trained.teacher.backbone.backbone)[:, 0], rtol=1e-4, atol=1e-5)
    image_input, expected = backbone.input, BACKBONES["udi-micro"].input
    assert image_input.size == 32
    assert image_input.statistics == expected.statistics
    assert image_input.interpolation == expected.interpolation


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_the_student_can_be_exported(trained, checkpoint, suffix, tmp_path) -> None:
    file = tmp_path / f"student{suffix}"
    assert export(checkpoint, file, "--checkpoint_key", "student") == 0
    assert list(read_checkpoint(file)["cls_token"].shape) == [1, 2, 64]
    tokens = tokens_of(load_backbone("udi-micro", checkpoint=file).model)
    assert torch.equal(tokens, tokens_of(trained.student.backbone.backbone))
    assert not torch.equal(tokens, tokens_of(trained.teacher.backbone.backbone))


def test_the_positions_of_removed_class_tokens_are_removed(trained, checkpoint, tmp_path) -> None:
    positions = trained.teacher.backbone.backbone.pos_embed
    for tokens, remaining in ((1, [0, *range(2, 66)]), (0, list(range(2, 66)))):
        assert export(checkpoint, tmp_path / f"{tokens}.pth", "--class-tokens", str(tokens)) == 0
        state = read_checkpoint(tmp_path / f"{tokens}.pth")
        assert torch.equal(state["pos_embed"], positions[:, remaining])
        assert ("cls_token" in state) == bool(tokens)
        assert "reg_token" not in state


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class-tokens", "0", "--layout", "timm"], "needs --layout published"),
        (["--class-tokens", "3"], "at most 2"),
        (["--checkpoint-key", "ema"], "ema"),
    ],
)
def test_invalid_exports_are_refused(checkpoint, flags, message, tmp_path, capsys) -> None:
    assert export(checkpoint, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_export_of_missing_weights_or_class_tokens_is_refused(checkpoint, tmp_path, capsys) -> None:
    exported = tmp_path / "exported.pth"
    assert export(checkpoint, exported, "--class-tokens", "1") == 0
    for flags, message in (
        (["--checkpoint-key", "student"], "has no weights of the student"),
        (["--class-tokens", "2"], "has one class token"),
    ):
        assert export(exported, tmp_path / "out.pth", *flags) == 2
        assert message in capsys.readouterr().err
    torch.save({"student": {"cls_token": torch.zeros(1, 1, 4)}}, tmp_path / "student.pth")
    assert export(tmp_path / "student.pth", tmp_path / "out.pth") == 2
    assert "has no weights of the teacher" in capsys.readouterr().err
    torch.save({"cls_token": torch.zeros(1, 1, 4)}, tmp_path / "token.pth")
    assert export(tmp_path / "token.pth", tmp_path / "out.pth") == 2
    assert "does not contain a vision transformer" in capsys.readouterr().err


def test_a_network_without_one_of_its_tensors_is_refused(checkpoint, tmp_path, capsys) -> None:
    complete = tmp_path / "complete.pth"
    assert export(checkpoint, complete) == 0
    state = read_checkpoint(complete)
    state.pop("blocks.1.norm2.bias")
    torch.save(state, tmp_path / "part.pth")
    assert export(tmp_path / "part.pth", tmp_path / "out.pth") == 2
    assert "1 missing (blocks.1.norm2.bias)" in capsys.readouterr().err
