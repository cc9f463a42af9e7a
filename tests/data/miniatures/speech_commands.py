"""Speech Commands: `<word>/<speaker>_nohash_<take>.wav`, lists of two splits, and noise that is in no split."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, Row, files_below, tar_folders, write_lines
from tests.data.miniatures.waves import write_wave

WORDS = ["bed", "yes", "zero"]
LISTS = {
    "validation_list.txt": ["zero/0a_nohash_0.wav", "bed/0a_nohash_1.wav"],
    "testing_list.txt": ["yes/0b_nohash_0.wav", "bed/0b_nohash_0.wav", "zero/0b_nohash_0.wav"],
}
TRAIN = ["bed/0c_nohash_0.wav", "yes/0c_nohash_0.wav", "yes/0d_nohash_0.wav", "zero/0c_nohash_0.wav"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "speech-commands"
    for name, files in LISTS.items():
        write_lines(root / name, files)
    splits = dict(zip(("train", "valid", "test"), (TRAIN, *LISTS.values()), strict=True))
    all_files = [*TRAIN, *LISTS["validation_list.txt"], *LISTS["testing_list.txt"], "_background_noise_/tap.wav"]
    for file in all_files:
        write_wave(root / file, file)
    rows = {split: [Row(file, WORDS.index(file.split("/")[0])) for file in files] for split, files in splits.items()}
    return Miniature(rows, class_names=WORDS, files=files_below(root, rows))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    root = data_dir / "speech-commands"
    parts = [*WORDS, "_background_noise_", *LISTS]
    tar_folders(archives / "speech_commands_v0.02.tar.gz", {f"./{part}": root / part for part in parts})
