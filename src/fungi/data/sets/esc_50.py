"""`esc-50`: environmental sounds, clips of five seconds at 44.1 kHz, in the layout of the archive (spec audio 3).

The test split of `esc-50` is fold 1, as in the published values; the train split has the other four folds. The test
split of `esc-50-fold2` is fold 2, and so on to fold 5. The score of the benchmark is the mean over the five folds
(`scripts/average_folds.py`).
"""

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import find_archive, unpack_folder
from fungi.data.formats.sounds import sound_samples
from fungi.data.places import Place, reading

FOLDS = 5
INPUT = {"frames": 512, "mean": -6.6268077, "deviation": 5.358466}
"""Length of the spectrogram, and mean and standard deviation of its values (spec audio 2)."""


@dataclass(frozen=True)
class _Fold:
    """Function that opens the splits for one test fold."""

    fold: int
    dataset: str

    @property
    def place(self) -> Place:
        return Place(
            dataset=self.dataset,
            folders=("esc-50", "ESC-50-master", ""),
            needs=("meta/esc50.csv", "audio"),
        )

    def __call__(self, data_dir: Path, split: str) -> Samples:
        root = self.place.find(data_dir)
        with reading(self.place, root), (root / "meta" / "esc50.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
            rows = [row for row in table if (int(row["fold"]) == self.fold) == (split == "test")]
            names = {int(row["target"]): row["category"] for row in table}
            files = [f"audio/{row['filename']}" for row in rows]
            classes = [names[target] for target in sorted(names)]
            return sound_samples(root, files, [int(row["target"]) for row in rows], classes)


def _prepare(data_dir: Path, archives: Path) -> None:
    """Unpack `ESC-50-master.zip` (also called `master.zip`)."""
    find = partial(find_archive, archives, "ESC-50*.zip", "master.zip")
    for part in ("meta", "audio"):
        unpack_folder(find, f"ESC-50-master/{part}", data_dir / "esc-50" / part)


for _number in range(1, FOLDS + 1):
    _name = "esc-50" if _number == 1 else f"esc-50-fold{_number}"
    register_dataset(
        name=_name,
        title="ESC-50 environmental sounds" + ("" if _number == 1 else f", tested on fold {_number}"),
        classes=50,
        sizes={"train": 1600, "test": 400},
        modality="audio",
        open=_Fold(_number, _name),
        prepare=_prepare,
        archives=(
            "# 0.9 GB",
            "wget -O downloads/ESC-50-master.zip https://github.com/karolpiczak/ESC-50/archive/master.zip",
        ),
        input_options=INPUT,
        is_in_paper=_number == 1,
    )
