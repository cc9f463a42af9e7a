"""`ade20k`: ADE20K scene parsing, 150 classes; the test split is the official validation split.

Masks contain the classes 1 to 150, and 0 for all other pixels. The bank also contains patches of class 0, but the
metric ignores class 0 (spec dense 2.2).
"""

from functools import partial
from pathlib import Path

from fungi.data.base import MaskRules, Samples, register_dataset
from fungi.data.formats.archives import find_archive, unpack_file, unpack_folder
from fungi.data.formats.image_folders import image_names
from fungi.data.formats.mask_files import masked_samples
from fungi.data.places import Place, reading

FOLDERS = {"train": "training", "test": "validation"}
PLACE = Place(
    dataset="ade20k",
    folders=("ade20k", "ADEChallengeData2016"),
    needs=tuple(f"{kind}/{folder}" for kind in ("images", "annotations") for folder in FOLDERS.values()),
)
_ARCHIVE = "ADEChallengeData2016"


def _open(data_dir: Path, split: str) -> Samples:
    root = PLACE.find(data_dir.expanduser())
    folder = FOLDERS[split]
    with reading(PLACE, root):
        names = [Path(name).stem for name in image_names(root / "images" / folder)]
    images = [f"images/{folder}/{name}.jpg" for name in names]
    masks = [f"annotations/{folder}/{name}.png" for name in names]
    return masked_samples(root, images, masks, _class_names(root))


def _class_names(root: Path) -> list[str]:
    """Return `other` and the 150 class names in `objectInfo150.txt`. Without this file, return names with numbers."""
    path = root / "objectInfo150.txt"
    if not path.is_file():
        return ["other", *(f"class {number}" for number in range(1, 151))]
    with reading(PLACE, root):
        lines = path.read_text(encoding="utf-8").splitlines()[1:151]  # the first line has the names of the columns
        synonyms_of_classes = [line.split("\t")[-1] for line in lines]  # "building, edifice"
        return ["other", *(synonyms.split(",")[0].strip() for synonyms in synonyms_of_classes)]


def _prepare(data_dir: Path, archives: Path) -> None:
    home = PLACE.home(data_dir)
    archive = partial(find_archive, archives, f"{_ARCHIVE}.zip")
    for kind in ("images", "annotations"):
        unpack_folder(archive, f"{_ARCHIVE}/{kind}", home / kind)
    unpack_file(archive, f"{_ARCHIVE}/objectInfo150.txt", home / "objectInfo150.txt")


register_dataset(
    name="ade20k",
    title="ADE20K scene parsing",
    classes=151,
    sizes={"train": 20210, "test": 2000},
    metric="mIoU",
    open=_open,
    prepare=_prepare,
    archives=(
        "# 1 GB",
        "wget -P downloads http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    ),
    masks=MaskRules(ignored=0, unscored=(0,)),
    notes="150 classes and other (0), which is not scored; for fungi segment",
)
