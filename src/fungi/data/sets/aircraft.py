"""`aircraft`: FGVC Aircraft, 100 variants, in torchvision's layout. The train split is `train`, not `trainval`."""

from pathlib import Path

from fungi.data.base import register_dataset
from fungi.data.formats.archives import atomic_folder, fetch, is_there, unpack
from fungi.data.formats.torchvision_sets import TorchvisionImages
from fungi.data.places import Place

PLACE = Place(dataset="aircraft", folders=("aircraft", ""), needs=("fgvc-aircraft-2013b/data/images",))


def _download(data_dir: Path) -> None:
    """Download the archive over HTTPS and check its members, because torchvision has no checksum for this archive."""
    from torchvision.datasets import FGVCAircraft

    home = PLACE.home(data_dir.expanduser())
    if is_there(home):
        return
    with atomic_folder(home) as work:
        archive = fetch(FGVCAircraft._URL, work)
        unpack(archive, work)
        archive.unlink()


register_dataset(
    name="aircraft",
    title="FGVC Aircraft",
    classes=100,
    sizes={"train": 3334, "valid": 3333, "test": 3333},
    metric="mean-per-class-accuracy",
    open=TorchvisionImages("FGVCAircraft", PLACE, {"annotation_level": "variant"}),
    download=_download,
)
