"""`--residual-dtype bfloat16`: files record it, and are not joined with files of a float32 residual stream."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungi.extraction.features import BFLOAT16_RESIDUAL
from fungi.extraction.gradient_settings import GradientSettings
from fungi.store.reading import provenance_of
from tests.stages.conftest import QUICK, Stage, arrays

FILE = Path("gradients") / "pictures" / "digits-vit" / "simclr-test.h5"
HALF = ("--objective", "simclr", "--split", "test", "--dtype", "bfloat16")


def test_files_record_the_dtype_of_the_residual_stream_and_refuse_another_dtype(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root, flags in ((tmp_path / "short", ("--residual-dtype", "bfloat16")), (tmp_path / "float", ())):
        assert gradients(root, *HALF, *flags) == 0
    short, usual = (provenance_of(tmp_path / root / FILE) for root in ("short", "float"))
    assert (short.dtype, usual.dtype) == (BFLOAT16_RESIDUAL, "bfloat16")
    assert short.identity() != usual.identity()
    settings = GradientSettings(set=QUICK[1:3])  # the options of SimCLR
    assert "--residual-dtype bfloat16, not float32" in settings.difference_from(short)
    assert replace(settings, residual_dtype="bfloat16").difference_from(short) == ""
    assert len(list((tmp_path / "short" / "support").rglob("*.safetensors"))) == 1
    values = {root: arrays(tmp_path / root) for root in ("short", "float")}
    for name, rows in values["float"].items():
        short_rows = values["short"][name]
        assert not np.array_equal(rows, short_rows)
        cosines = (rows * short_rows).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(short_rows, axis=1)
        assert cosines.min() > 0.99  # bfloat16 has a precision of eight bits
    capsys.readouterr()
    assert gradients(tmp_path / "short", *HALF) == 2
    assert f"dtype: {BFLOAT16_RESIDUAL} -> bfloat16" in capsys.readouterr().err


def test_supporting_data_of_another_residual_stream_are_not_used(gradients: Stage, tmp_path: Path) -> None:
    assert gradients(tmp_path, *HALF) == 0
    (tmp_path / FILE).unlink()
    assert gradients(tmp_path, *HALF, "--residual-dtype", "bfloat16") == 0
    assert len(list((tmp_path / "support").rglob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dtype", "float32"), "--residual-dtype bfloat16 needs --dtype bfloat16"),
        (("--dtype", "bfloat16", "--layer", "blocks.0.attn.proj"), "no block comes before blocks.0.attn.proj"),
    ],
)
def test_a_residual_stream_that_cannot_be_bfloat16_is_refused(
    flags: tuple[str, ...], message: str, gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradients(tmp_path, "--objective", "simclr", "--residual-dtype", "bfloat16", *flags) == 2
    assert message in capsys.readouterr().err
