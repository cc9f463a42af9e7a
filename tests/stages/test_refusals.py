"""A user error ends a command with status 2 and a message that names the cause and the solution."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from fungi.cli.main import main as fungi
from fungi.commands import COMMANDS, Command
from tests.stages.conftest import Stage

merge = COMMANDS["merge"].main
extract_gradients = COMMANDS["extract-gradients"].main
extract = COMMANDS["extract"].main
projection = COMMANDS["projection"].main

KL = ("--objective", "kl", "--set")  # the empty `--set` removes the options of SimCLR


def assert_refused(capsys: pytest.CaptureFixture[str], status: int, *parts: str) -> None:
    """Assert that the status is 2 and that the error message has these parts, without a traceback."""
    error = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in error
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--dataset", "digts"), ("'digts'", "digits")),
        (("--backbone", "digits-vt"), ("unknown backbone 'digits-vt'", "'digits-vit'")),
        (("--split", "valid"), ("no split 'valid'", "train, test")),
        (("--objective", "klx"), ("unknown objective 'klx'", "'kl'")),
        (("--objective",), ("no objective is given",)),
        (("--layer", "blocks.3.attn.prj"), ("does not exist", "blocks.3.attn.proj")),
        (("--shard", "0/4"), ("--shard '0/4' is not I/N",)),
        (("--shard", "5/4"), ("--shard '5/4' is not I/N",)),
        (("--device", "cuda:99"), ("cuda:99",)),
        (("--dtype", "float8"), ("'float8' is not known", "bfloat16")),
        (("--set", "simclr.temperatur=1"), ("simclr", "'temperatur'. Did you mean 'temperature'")),
        (("--set", "simclr.negative_samples=many"), ("simclr", "'negative_samples' takes a whole number, not 'many'")),
        (("--set", "simclr.hard_negatives=3"), ("'hard_negatives' takes a list of a whole number each", "not 3")),
        (("--set", "kl.temperature=True"), ("'temperature' takes a number, not True",)),
        (("--set", "simclr.grid=two"), ("simclr", "'grid' takes a whole number, not 'two'")),
        (("--set", "dino.global_area=0.5"), ("dino", "'global_area' takes 2 values of a number each", "not 0.5")),
        (("--set", "kl.direction=up"), ("kl", "'direction' takes one of uniform_to_pred, pred_to_uniform, not 'up'")),
        (("--projection-matrix", "m.pth", "--projection-dim", "8"), ("already has a size", "leave out")),
        (("--device", "meta"), ("--device meta is not supported",)),
        (("--set", "kl.latent_dim=0"), ("kl.latent_dim has to be larger than 0, not 0",)),
        (("--set", "dino.teacher_temperature=-1"), ("dino.teacher_temperature has to be larger than 0",)),
        (("--set", "ibo.x=1"), ("unknown objective 'ibo'. Did you mean 'ibot'",)),
        (("--set", "ibot.x=1"), ("--set names objective 'ibot'",)),
        (("--seed", "many"), ("--seed takes a whole number, not 'many'",)),
        (("--set", "temperature"), ("is not OBJECTIVE.OPTION=VALUE",)),
        (("--batch-size", "0"), ("--batch-size has to be at least 1",)),
        (("--batchsize", "3"), ("unknown argument: --batchsize", "Did you mean '--batch-size'", "--help")),
        (("--projection-kind", "ternary"), ("'ternary' is not known",)),
        (("--checkpoint", "nowhere.pth"), ("nowhere.pth",)),
        (("--backbone", "bert-base-uncased"), ("takes text", "is vision")),
    ],
)
def test_messages_name_invalid_settings(
    flags: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = extract_gradients(["--root", str(tmp_path), "--device", "cpu", *flags])
    assert_refused(capsys, status, *parts)


def test_the_message_about_weights_without_a_network_names_the_file_and_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    status = extract(["--root", str(tmp_path), "--backbone", "vit-b16"])
    assert_refused(capsys, status, "vit_b_16", "--checkpoint")


def test_the_message_about_missing_data_names_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = extract(["--dataset", "flowers102", "--data-dir", str(tmp_path), "--root", str(tmp_path)])
    assert_refused(capsys, status, "flowers102", str(tmp_path))


def test_the_message_about_a_projection_of_another_width_names_both_widths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "m.pth"
    flags = ["--projection-dim", "8", "--gradients-dim", "100", "--output-path", str(matrix)]
    assert projection(flags) == 0
    status = extract_gradients(["--root", str(tmp_path), "--projection-matrix", str(matrix), "--device", "cpu"])
    assert_refused(capsys, status, "9312", "100", "fungi projection --gradients-dim 9312")


def test_the_message_names_an_unreadable_image_and_earlier_blocks_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in range(8):
        path = tmp_path / "data" / "mine" / "train" / "a" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), row, dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:40])
    common = ["--dataset", "mine", "--data-dir", str(tmp_path / "data"), "--root", str(tmp_path), "--device", "cpu"]
    for workers in ("0", "1"):
        flags = [*common, *KL, "--split", "train", "--block-size", "4", "--num-workers", workers]
        assert_refused(capsys, extract_gradients(flags), "7.png")
    assert len(list((tmp_path / "blocks").rglob("000000.safetensors"))) == 1


def test_the_message_names_the_sample_with_a_feature_that_is_not_finite(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fungi.objectives.kl import KL as Loss

    monkeypatch.setattr(Loss, "loss", lambda self, encoded, heads, support: encoded.pooled.sum((1, 2)) * np.nan)
    assert_refused(capsys, gradients(tmp_path, *KL), "kl is not finite for", "class0/00.png")


def test_the_message_names_a_truncated_feature_file(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradients(tmp_path, *KL, "--split", "test") == 0
    file = next((tmp_path / "gradients").rglob("*.h5"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert_refused(capsys, gradients(tmp_path, *KL, "--split", "test"), f"{file} can't be read as HDF5", "--overwrite")


def test_a_file_of_the_published_code_is_not_overwritten(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gradients" / "pictures" / "digits-vit" / "kl-test.h5"
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w") as content:
        content["attn_proj"] = np.zeros((9, 96), dtype=np.float32)
    assert_refused(capsys, gradients(tmp_path, *KL, "--split", "test"), f"{file} was not written by this program")


def test_a_projection_file_with_another_matrix_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--projection-dim", "4", "--gradients-dim", "9", "--output-path", str(tmp_path / "m.pth")]
    assert projection(flags) == 0
    assert projection(flags) == 0
    assert "kept" in capsys.readouterr().out
    assert_refused(capsys, projection([*flags, "--seed", "1"]), "holds another matrix", "--overwrite")


def test_a_merge_without_blocks_succeeds(tmp_path: Path) -> None:
    assert merge(["--root", str(tmp_path)]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_works(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = fungi([command, "--help"])
    except SystemExit as error:  # argparse ends the help with an exception
        status = error.code
    assert status == 0
    assert "usage:" in capsys.readouterr().out


def test_the_message_names_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert fungi(["extrct"]) == 2
    assert "unknown command 'extrct'" in capsys.readouterr().err


SLOW_TO_IMPORT = ("torch", "sklearn", "transformers", "h5py", "matplotlib", "pandas")


def test_help_of_every_command_imports_no_slow_library() -> None:
    probe = (
        "import sys\nfrom fungi.commands import COMMANDS\n"
        "for name in COMMANDS:\n"
        "    try: COMMANDS[name].main(['--help'])\n"
        "    except SystemExit: pass\n"
        f"    slow = [module for module in {SLOW_TO_IMPORT} if module in sys.modules]\n"
        "    assert not slow, f'help of {name} imported {slow}'"
    )
    process = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("usage:") == len(COMMANDS)


@pytest.mark.parametrize("command", [command for command in COMMANDS.values() if command.file])
def test_each_command_with_a_file_of_its_own_is_called_by_that_file(command: Command) -> None:
    top = Path(__file__).resolve().parents[2]
    (path,) = [path for path in (top / command.file, top / "scripts" / command.file) if path.is_file()]
    assert f'COMMANDS["{command.name}"].main()' in path.read_text()


def test_the_message_names_a_root_that_cannot_be_written(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    flags = ("--dataset", "pictures", "--data-dir", str(pictures), "--root", str(tmp_path / "file" / "features"))
    assert_refused(capsys, extract(flags), "extract.py:", "file", "Not a directory")


def test_missing_data_are_reported_before_the_backbone_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fungi.extraction.context.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    assert_refused(capsys, extract(("--dataset", "textures", "--data-dir", str(tmp_path))), "textures")


@pytest.mark.parametrize("command", ["merge", "status"])
def test_a_root_that_does_not_exist_is_reported_and_not_created(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, fungi([command, "--root", str(tmp_path / "typo")]), "there is no folder", "typo")
    assert not (tmp_path / "typo").exists()


def test_messages_name_damaged_supporting_data_and_manifests(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = ("--objective", "simclr", "--split", "train", "--shard", "1/2")
    assert gradients(tmp_path, *shard) == 0
    (support,) = (tmp_path / "support").rglob("*.safetensors")
    support.write_bytes(support.read_bytes()[:20])
    assert_refused(capsys, gradients(tmp_path, *shard), support.name, "Move it away and run the stage again")
    (manifest,) = (tmp_path / "blocks").rglob("manifest.json")
    manifest.write_text("{")
    assert_refused(
        capsys, merge(["--root", str(tmp_path)]), "manifest.json is damaged", "Run the stage of this file again"
    )


@pytest.mark.slow
def test_objectives_without_views_for_a_modality_are_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dataset", "pydocs", "--backbone", "tiny-bert", "--random-init", "--root", str(tmp_path))
    assert_refused(capsys, extract_gradients(flags), "dino: no views of text exist", "Use --objective kl simclr.")
    assert not (tmp_path / "projections").exists()
