"""With `--views native`, the laws of the stages hold, and files and messages name the plan of views."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.report.facts import page_texts
from fungi.report.features import unusual_features
from fungi.store.reading import provenance_of
from tests.stages.conftest import Stage, arrays, assert_close_files, assert_same_files

NATIVE = ("--views", "native", "--objective", "kl", "dino", "simclr")
PLACE = Path("gradients") / "pictures" / "digits-vit"


@pytest.fixture(scope="module")
def native_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract all objectives with views at their own size in one run, and return the root."""
    from fungi.commands import COMMANDS
    from tests.stages.conftest import QUICK

    root = tmp_path_factory.mktemp("native")
    common = ("--dataset", "pictures", "--data-dir", str(pictures), "--root", str(root))
    assert COMMANDS["extract-gradients"].main([*common, *QUICK, *NATIVE]) == 0
    return root


@pytest.mark.slow
def test_files_do_not_depend_on_shards_and_their_order(native_run: Path, gradients: Stage, tmp_path: Path) -> None:
    for shard in ("3/3", "1/3", "2/3"):
        assert gradients(tmp_path, *NATIVE, "--shard", shard) == 0
    assert_same_files(native_run, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--batch-size", "3"), ("--views-per-forward", "7"), ("--no-short-cut",)])
def test_files_do_not_depend_on_batches_groups_or_the_short_cut(
    native_run: Path, gradients: Stage, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    assert gradients(tmp_path, *NATIVE, *flags) == 0
    assert_close_files(native_run, tmp_path)


def test_an_objective_writes_the_same_file_alone_and_with_others(
    native_run: Path, gradients: Stage, tmp_path: Path
) -> None:
    assert gradients(tmp_path, "--views", "native", "--objective", "dino", "--split", "test", "--set") == 0
    for name, values in arrays(tmp_path).items():
        assert np.array_equal(values, arrays(native_run)[name]), name


def test_the_provenance_names_the_plan_and_the_scaling_of_positions(native_run: Path) -> None:
    for objective, plan in (("kl", "published"), ("dino", "native"), ("simclr", "published")):
        provenance = provenance_of(native_run / PLACE / f"{objective}-train.h5")
        # `--set` changes the stride of SimCLR, so its options are listed instead of the name of the plan.
        assert provenance.views == plan
    settings = provenance.objective_settings
    assert settings["position_embeddings"] == "timm"
    assert "view_size=16" in settings["views"]
    with h5py.File(native_run / PLACE / "dino-train.h5") as file:
        assert file.attrs["views"] == "native"
        assert "local_size=16" in json.loads(file.attrs["objective_settings"])["views"]


def test_the_report_names_the_plan(native_run: Path) -> None:
    entries = []
    for objective in ("kl", "dino", "simclr"):
        provenance = provenance_of(native_run / PLACE / f"{objective}-train.h5")
        entries.append((objective, {"provenance": json.loads(json.dumps(vars(provenance), default=str))}))
    texts = page_texts(unusual_features(entries))
    assert "native views" in texts
    assert "SimCLR view size 16" in texts
    assert not any("local" in text or text.startswith("KL") for text in texts)


def test_files_that_another_plan_would_change_are_refused_and_other_files_are_kept(
    native_run: Path, gradients: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """KL has one view of the full size in every plan."""
    assert gradients(native_run, "--objective", "kl", "--set") == 0
    assert capsys.readouterr().out.count("kept") == 2
    assert gradients(native_run, "--objective", "dino", "--set") != 0
    assert "local_size" in capsys.readouterr().err


def test_the_command_prints_the_cost_in_forwards_of_the_full_size(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradients(tmp_path, "--views", "native", "--objective", "dino", "--split", "test", "--set") == 0
    assert "9 rows, 40.5 forwards of the full input size" in capsys.readouterr().err  # 9 x (2 + 10 / 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--set", "simclr.view_size=13"), "size of 13 pixels is not a multiple of the model's patch size, 4 pixels"),
        (("--set", "simclr.view_size=64"), "view_size is 64 pixels, but the backbone's input has 32"),
        (("--views", "nativ"), "native"),
    ],
)
def test_the_message_names_an_impossible_size_or_plan(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert gradients(tmp_path, "--objective", "simclr", "--split", "test", *flags) != 0
    assert message in capsys.readouterr().err
