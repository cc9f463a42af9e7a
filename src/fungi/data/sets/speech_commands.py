"""`speech-commands`: thirty-five spoken words, Speech Commands v0.02, in the layout of its archive (spec audio 3).

`validation_list.txt` and `testing_list.txt` list the files of `valid` and `test`, in the order of the rows. All other
files are in `train`, sorted by path. Labels are positions in the alphabetical list of words.
"""

from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import atomic_folder, find_archive, is_there, unpack
from fungi.data.formats.sounds import sound_samples
from fungi.data.places import Place, reading
from fungi.errors import FungiError

LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
NOISE = "_background_noise_"
"""Folder of recordings without words. These are not samples."""
PLACE = Place(
    dataset="speech-commands",
    folders=("speech-commands", "speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02", ""),
    needs=tuple(LISTS.values()),
)


def _open(data_dir: Path, split: str) -> Samples:
    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        words = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != NOISE)
        listed_files = {name: (root / file).read_text(encoding="utf-8").split() for name, file in LISTS.items()}
        files = listed_files.get(split, [])
        if split == "train":
            files_of_other_splits = {file for files in listed_files.values() for file in files}
            all_files = (f"{word}/{path.name}" for word in words for path in (root / word).glob("*.wav"))
            files = sorted(file for file in all_files if file not in files_of_other_splits)
        for file in files:
            if file.partition("/")[0] not in words:
                raise FungiError(
                    f"{root / LISTS[split]} lists {file}, but there is no folder for this word. Unpack the"
                    " dataset again."
                )
    return sound_samples(root, files, [words.index(file.partition("/")[0]) for file in files], words)


def _prepare(data_dir: Path, archives: Path) -> None:
    """Unpack `speech_commands_v0.02.tar.gz`."""
    target = PLACE.home(data_dir)
    if is_there(target):
        return
    archive = find_archive(archives, "speech_commands_v0.02.tar.gz", "speech_commands*.tar.gz")
    with atomic_folder(target) as work:
        unpack(archive, work)


register_dataset(
    name="speech-commands",
    title="Speech Commands v0.02, 35 words",
    classes=35,
    sizes={"train": 84843, "valid": 9981, "test": 11005},
    modality="audio",
    open=_open,
    prepare=_prepare,
    archives=(
        "# 2.3 GB packed, 3.8 GB unpacked",
        "wget -P downloads http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    ),
    input_options={"frames": 128, "mean": -6.845978, "deviation": 5.5654526},
)
