"""`--views native`: the laws of the stage hold, and files and refusals say which plan of views they follow."""

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
def native(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All objectives with views at their own size, in one plain run."""
    from fungi.commands import COMMANDS
    from tests.stages.conftest import QUICK

    root = tmp_path_factory.mktemp("native")
    where = ("--dataset", "pictures", "--data-dir", str(pictures), "--root", str(root))
    assert COMMANDS["extract-gradients"].main([*where, *QUICK, *NATIVE]) == 0
    return root


@pytest.mark.slow
def test_shards_in_any_order_give_the_same_files(native: Path, gradients: Stage, tmp_path: Path) -> None:
    for shard in ("3/3", "1/3", "2/3"):
        assert gradients(tmp_path, *NATIVE, "--shard", shard) == 0
    assert_same_files(native, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--batch-size", "3"), ("--views-per-forward", "7"), ("--no-short-cut",)])
def test_neither_batches_nor_groups_nor_the_way_show(
    native: Path, gradients: Stage, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    assert gradients(tmp_path, *NATIVE, *flags) == 0
    assert_close_files(native, tmp_path)


def test_an_objective_alone_gives_the_file_it_gives_among_others(
    native: Path, gradients: Stage, tmp_path: Path
) -> None:
    assert gradients(tmp_path, "--views", "native", "--objective", "dino", "--split", "test", "--set") == 0
    for name, values in arrays(tmp_path).items():
        assert np.array_equal(values, arrays(native)[name]), name


def test_provenance_names_the_plan_and_how_positions_are_scaled(native: Path) -> None:
    for objective, plan in (("kl", "published"), ("dino", "native"), ("simclr", "published")):
        provenance = provenance_of(native / PLACE / f"{objective}-train.h5")
        # simclr's stride was set by hand as well, so that its options are listed in place of the plan's name
        assert provenance.views == plan
    settings = provenance.objective_settings
    assert settings["position_embeddings"] == "timm"
    assert "view_size=16" in settings["views"]
    with h5py.File(native / PLACE / "dino-train.h5") as file:
        assert file.attrs["views"] == "native"
        assert "local_size=16" in json.loads(file.attrs["objective_settings"])["views"]


def test_report_rows_name_the_plan(native: Path) -> None:
    entries = []
    for objective in ("kl", "dino", "simclr"):
        provenance = provenance_of(native / PLACE / f"{objective}-train.h5")
        entries.append((objective, {"provenance": json.loads(json.dumps(vars(provenance), default=str))}))
    named = page_texts(unusual_features(entries))
    assert "native views" in named
    assert "SimCLR view size 16" in named
    assert not any("local" in text or text.startswith("KL") for text in named)


def test_files_of_another_plan_are_refused_and_those_it_does_not_touch_are_kept(
    native: Path, gradients: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """KL has one view of the full size under every plan."""
    assert gradients(native, "--objective", "kl", "--set") == 0
    assert capsys.readouterr().out.count("kept") == 2
    assert gradients(native, "--objective", "dino", "--set") != 0
    assert "local_size" in capsys.readouterr().err


def test_the_cost_is_said_in_forwards_of_the_full_size(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradients(tmp_path, "--views", "native", "--objective", "dino", "--split", "test", "--set") == 0
    assert "9 rows, 40.5 forwards of the full input size" in capsys.readouterr().err  # 2 + 10 / 4 each


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--set", "simclr.view_size=13"), "size of 13 pixels is not a multiple of the model's patch size, 4 pixels"),
        (("--set", "simclr.view_size=64"), "view_size is 64 pixels, but the backbone's input has 32"),
        (("--views", "nativ"), "native"),
    ],
)
def test_sizes_and_plans_that_can_not_be_are_named(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], complaint: str
) -> None:
    assert gradients(tmp_path, "--objective", "simclr", "--split", "test", *flags) != 0
    assert complaint in capsys.readouterr().err
