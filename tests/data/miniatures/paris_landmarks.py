"""Paris landmarks: like Oxford, but the official archives have one folder per landmark."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, tar_folders
from tests.data.miniatures.oxford_landmarks import make_landmarks


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return make_landmarks(data_dir, "rparis6k")


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    root = data_dir / "retrieval-landmarks" / "rparis6k"
    images = sorted((root / "jpg").iterdir())
    tar_folders(archives / "paris_1-v1.tgz", {f"paris/defense/{path.name}": path for path in images[:2]})
    tar_folders(archives / "paris_2-v1.tgz", {f"paris/eiffel/{path.name}": path for path in images[2:]})
    (archives / "gnd_rparis6k.pkl").write_bytes((root / "gnd_rparis6k.pkl").read_bytes())
