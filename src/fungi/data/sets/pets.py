"""`pets`: Oxford-IIIT Pet, 37 breeds. `trainval.txt` lists the train split, `test.txt` the test split.

A label is the class id in these files minus 1. The dataset is read from `images/` and `annotations/`, or from the saved
dataset `pets-hf` of the published code (same rows).
"""

from functools import partial
from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import find_archive, unpack_folder
from fungi.data.formats.hf_disk import open_saved
from fungi.data.formats.image_files import image_samples
from fungi.data.places import Place, reading

PLACE = Place(
    dataset="pets",
    folders=("pets", "pets/oxford-iiit-pet", "oxford-iiit-pet"),
    needs=("images", "annotations/trainval.txt", "annotations/test.txt"),
)
_SAVED = "pets-hf"
_LISTS = {"train": "trainval.txt", "test": "test.txt"}


def _open(data_dir: Path, split: str) -> Samples:
    data_dir = data_dir.expanduser()
    if (data_dir / _SAVED).is_dir() and not (data_dir / "pets" / "images").is_dir():
        return open_saved(data_dir / _SAVED, split, name_rows=lambda files, *_: [f"images/{name}" for name in files])
    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        # Each line is `name class-id species breed-id`.
        listing = (root / "annotations" / _LISTS[split]).read_text(encoding="utf-8")
        rows = [line.split() for line in listing.splitlines() if line.strip() and not line.startswith("#")]
        images, labels = [row[0] for row in rows], [int(row[1]) - 1 for row in rows]
    return image_samples(root, [f"images/{name}.jpg" for name in images], labels, breeds(images, labels))


def breeds(images: list[str], labels: list[int]) -> list[str]:
    """Return the class names in the order of their labels, from file names `<breed>_<number>`."""
    names = {label: image.rpartition("_")[0] for image, label in zip(images, labels, strict=True)}
    return [names[label] for label in sorted(names)]


def _prepare(data_dir: Path, archives: Path) -> None:
    home = PLACE.home(data_dir)
    for folder in ("images", "annotations"):
        unpack_folder(partial(find_archive, archives, f"{folder}.tar.gz", f"{folder}.tar"), folder, home / folder)


register_dataset(
    name="pets",
    title="Oxford-IIIT Pet",
    classes=37,
    sizes={"train": 3680, "test": 3669},
    metric="mean-per-class-accuracy",
    open=_open,
    prepare=_prepare,
    archives=(
        "# 0.8 GB",
        "wget -P downloads https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
        "wget -P downloads https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz",
    ),
)
