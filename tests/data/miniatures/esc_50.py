"""ESC-50: `meta/esc50.csv` with a line per clip, and sounds at 44.1 kHz. Fold 1 is the test split."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.data.miniatures.miniature import Miniature, Row, files_below, write_lines, zip_folders
from tests.data.miniatures.waves import write_wave

CLASSES = ["dog", "rain", "clock_tick"]
CLIPS = [(f"{fold}-{100 + fold}-A-{target}.wav", fold, target) for target in (2, 0, 1) for fold in range(1, 6)]


def make(data_dir: Path, patch: pytest.MonkeyPatch, fold: int = 1) -> Miniature:
    root = data_dir / "esc-50"
    lines = [f"{file},{clip_fold},{target},{CLASSES[target]},False,1,A" for file, clip_fold, target in CLIPS]
    write_lines(root / "meta" / "esc50.csv", ["filename,fold,target,category,esc10,src_file,take", *lines])
    for file, _, _ in CLIPS:
        write_wave(root / "audio" / file, file, rate=44_100)
    rows = {file: Row(f"audio/{file}", target) for file, _, target in CLIPS}
    splits = {
        "train": [rows[file] for file, clip_fold, _ in CLIPS if clip_fold != fold],
        "test": [rows[file] for file, clip_fold, _ in CLIPS if clip_fold == fold],
    }
    return Miniature(splits, class_names=CLASSES, files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    folders = {f"ESC-50-master/{part}": data_dir / "esc-50" / part for part in ("meta", "audio")}
    zip_folders(archives / "ESC-50-master.zip", folders)


OTHER_FOLDS = {f"esc-50-fold{fold}": SimpleNamespace(make=partial(make, fold=fold), pack=pack) for fold in range(2, 6)}
