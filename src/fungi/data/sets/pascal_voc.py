"""`pascal-voc`: Pascal VOC 2012 segmentation, 20 classes and background; train is `trainaug`, test is `val`.

Masks are PNG files with a palette; the pixel values are class numbers, and 255 is void (spec dense 2.1). The training
masks come from the augmented set (Hariharan et al.), in `SegmentationClassAug/`.
"""

from functools import partial
from pathlib import Path

from fungi.data.base import MaskRules, Samples, register_dataset
from fungi.data.formats.archives import find_archive, unpack_file, unpack_folder
from fungi.data.formats.mask_files import masked_samples
from fungi.data.places import Place, reading

NAMES = """
background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor
"""
CLASSES = tuple(NAMES.split())
MASKS = {"train": "SegmentationClassAug", "test": "SegmentationClass"}
LISTS = {"train": "trainaug", "test": "val"}
PLACE = Place(
    dataset="pascal-voc",
    folders=("pascal-voc", "VOCSegmentation"),
    needs=("images", *MASKS.values(), *(f"sets/{name}.txt" for name in LISTS.values())),
)
_FOLDER_IN_ARCHIVE = "VOCdevkit/VOC2012"


def _open(data_dir: Path, split: str) -> Samples:
    root = PLACE.find(data_dir.expanduser())
    with reading(PLACE, root):
        # Each line has the name of an image, or the paths of an image and its mask.
        lines = (root / "sets" / f"{LISTS[split]}.txt").read_text(encoding="utf-8").splitlines()
        names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    masks = [f"{MASKS[split]}/{name}.png" for name in names]
    return masked_samples(root, [f"images/{name}.jpg" for name in names], masks, CLASSES)


def _prepare(data_dir: Path, archives: Path) -> None:
    home = PLACE.home(data_dir)
    voc = partial(find_archive, archives, "VOCtrainval_11-May-2012.tar", "VOCtrainval*.tar*")
    augmented = partial(find_archive, archives, "SegmentationClassAug.zip", "SegmentationClassAug*")
    unpack_folder(voc, f"{_FOLDER_IN_ARCHIVE}/JPEGImages", home / "images")
    unpack_folder(voc, f"{_FOLDER_IN_ARCHIVE}/SegmentationClass", home / "SegmentationClass")
    unpack_folder(augmented, "SegmentationClassAug", home / "SegmentationClassAug")
    unpack_file(voc, f"{_FOLDER_IN_ARCHIVE}/ImageSets/Segmentation/val.txt", home / "sets" / "val.txt")
    target = home / "sets" / "trainaug.txt"
    if not target.exists():
        target.write_bytes(find_archive(archives, "trainaug.txt", "train_aug.txt").read_bytes())


register_dataset(
    name="pascal-voc",
    title="Pascal VOC 2012 segmentation",
    classes=len(CLASSES),
    sizes={"train": 10582, "test": 1449},
    metric="mIoU",
    open=_open,
    prepare=_prepare,
    archives=(
        "# 2.2 GB",
        "wget -P downloads http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "# and into downloads, from any copy of the augmented training set: SegmentationClassAug.zip, trainaug.txt",
    ),
    masks=MaskRules(void_class=0),
    notes="train is trainaug, test is val; for fungi segment",
)
