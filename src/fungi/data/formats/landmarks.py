"""Read the revisited Oxford and Paris landmarks, two datasets for retrieval (spec vision 3.2, 9.6).

The split `train` is the database, and `test` has the queries. `test-cropped` has the queries cropped to their boxes, as
the benchmark requires. Labels are row numbers. Some image files are truncated; their missing pixels become grey.
"""

import pickle
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from fungi.data.base import DatasetSpec, Samples
from fungi.data.content import digest_of_item
from fungi.data.formats.archives import atomic_folder, find_archive, is_there, unpack, unpack_folder
from fungi.data.formats.image_files import ImageFiles, image_samples
from fungi.data.names import PackedNames
from fungi.data.places import Place, reading
from fungi.errors import FungiError

if TYPE_CHECKING:
    from PIL.Image import Image


class LandmarkQuery(TypedDict):
    """Ground truth of a query.

    easy, hard: rows of the database that show the landmark of the query, and are easy or hard to recognise.
    junk: rows that every protocol ignores, because it is not clear whether they show the landmark.
    bbx: box of the query (left, top, right, bottom) in pixels.
    """

    easy: list[int]
    hard: list[int]
    junk: list[int]
    bbx: list[float]


@dataclass(frozen=True)
class Landmarks:
    """One of the two landmark datasets.

    name: our name of the dataset. folder: name of the dataset in the benchmark, `roxford5k` or `rparis6k`.
    """

    name: str
    folder: str

    @property
    def place(self) -> Place:
        """The possible folders of the dataset."""
        return Place(
            dataset=self.name,
            folders=("retrieval-landmarks", ""),
            needs=(f"{self.folder}/jpg", f"{self.folder}/gnd_{self.folder}.pkl"),
        )

    def open(self, data_dir: Path, split: str) -> Samples:
        """Return a split: `train`, `test` or `test-cropped`."""
        root, listing = self._listing(data_dir)
        names = listing["imlist" if split == "train" else "qimlist"]
        paths = [f"jpg/{name}.jpg" for name in names]
        samples = image_samples(root, paths, np.arange(len(paths)), truncated=True)
        if split != "test-cropped":
            return samples
        boxes = np.asarray([truth["bbx"] for truth in listing["gnd"]], dtype=np.float64)
        ids = PackedNames(f"{path}#bbx" for path in paths)
        load = CroppedImages(ImageFiles(root, samples.ids, truncated=True), boxes)
        return Samples(targets=samples.targets, ids=ids, load=load)

    def ground_truth(self, data_dir: Path) -> list[LandmarkQuery]:
        """Return the ground truth of each query, in the order of the test split. The indices are rows of train."""
        root, listing = self._listing(data_dir)
        with reading(self.place, root):
            return [
                LandmarkQuery(
                    easy=[int(row) for row in truth["easy"]],
                    hard=[int(row) for row in truth["hard"]],
                    junk=[int(row) for row in truth["junk"]],
                    bbx=[float(edge) for edge in truth["bbx"]],
                )
                for truth in listing["gnd"]
            ]

    def prepare(self, data_dir: Path, archives: Path) -> None:
        """Unpack `roxfordparis.zip`. If it is missing, unpack the official archives and copy the ground-truth file."""
        home = self.place.home(data_dir)
        if list(archives.glob("roxfordparis.zip")):
            unpack_folder(partial(find_archive, archives, "roxfordparis.zip"), self.folder, home / self.folder)
        elif not is_there(home / self.folder):
            self._prepare_from_official(home / self.folder, archives)

    def _prepare_from_official(self, target: Path, archives: Path) -> None:
        """Unpack the images of the official archives into one folder, and copy the ground-truth file."""
        patterns = {"roxford5k": ["oxbuild_images*.tgz"], "rparis6k": ["paris_1*.tgz", "paris_2*.tgz"]}[self.folder]
        # roxfordparis.zip does not exist here. The error for a missing archive names it as an alternative.
        sources = [find_archive(archives, pattern, "roxfordparis.zip") for pattern in patterns]
        truth = find_archive(archives, f"gnd_{self.folder}.pkl")
        with atomic_folder(target) as work:
            (work / "jpg").mkdir()
            for source in sources:
                unpack(source, work / "unpacked")
            for image in (work / "unpacked").rglob("*.jpg"):  # the archives of Paris have a folder per landmark
                image.rename(work / "jpg" / image.name)
            shutil.rmtree(work / "unpacked")
            shutil.copyfile(truth, work / truth.name)

    def _listing(self, data_dir: Path) -> tuple[Path, dict[str, Any]]:
        """Return the folder of the dataset, and the content of its ground-truth file: `imlist`, `qimlist`, `gnd`.

        Raises FungiError if the file is damaged or incomplete.
        """
        root = self.place.find(data_dir) / self.folder
        path = root / f"gnd_{self.folder}.pkl"
        with reading(self.place, path), path.open("rb") as file:
            listing = PlainUnpickler(file, encoding="latin1").load()  # Python 2 wrote these files
        if not isinstance(listing, dict) or not {"imlist", "qimlist", "gnd"} <= set(listing):
            raise FungiError(f"dataset {self.name!r}: {path} has no imlist, qimlist and gnd. Download it again.")
        if fault := _fault(listing):
            raise FungiError(f"dataset {self.name!r}: {path} {fault}. Download it again.")
        return root, listing


def _fault(listing: dict[str, Any]) -> str:
    """Return a description of the first error in the content of a ground-truth file; empty if there is no error."""
    images, queries, truths = (listing[name] for name in ("imlist", "qimlist", "gnd"))
    for listing_name, names in (("imlist", images), ("qimlist", queries)):
        if not _is_sequence(names) or not all(map(_is_file_name, names)):
            return f"has an {listing_name} that is not a list of file names"
    if not _is_sequence(truths) or len(truths) != len(queries):
        return f"does not have an entry in gnd for each of its {len(queries)} queries"
    for number, truth in enumerate(truths):
        if not isinstance(truth, dict) or not {"easy", "hard", "junk", "bbx"} <= set(truth):
            return f"has no easy, hard, junk and bbx for query {number}"
        if not all(_is_list_of_rows(truth[kind], len(images)) for kind in ("easy", "hard", "junk")):
            return f"has rows beyond its {len(images)} images for query {number}"
        if np.shape(truth["bbx"]) != (4,) or not np.isfinite(np.asarray(truth["bbx"], dtype=np.float64)).all():
            return f"has no box of four numbers for query {number}"
    return ""


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and np.ndim(value) <= 1


def _is_file_name(value: Any) -> bool:
    """Return whether a value is a file name without folders."""
    return isinstance(value, str) and value != "" and Path(value).name == value


def _is_list_of_rows(value: Any, count: int) -> bool:
    """Return whether a value is a list of integers from 0 to `count` - 1."""
    return _is_sequence(value) and all(isinstance(row, int | np.integer) and 0 <= row < count for row in value)


@dataclass(frozen=True)
class CroppedImages:
    """Function: row -> image, cropped to the box of the row."""

    load: ImageFiles
    boxes: np.ndarray

    def __call__(self, row: int) -> "Image":
        """Return the image of a row, cropped to its box."""
        return self.load(row).crop(tuple(self.boxes[row]))

    def content(self, row: int) -> bytes:
        """Return a digest of the image file and the box."""
        return self.load.content(row) + digest_of_item(self.boxes[row])


class PlainUnpickler(pickle.Unpickler):
    """Unpickler for containers, numbers, strings and arrays. It refuses other types, so that a file can't run code."""

    _ALLOWED = frozenset(
        {
            ("_codecs", "encode"),  # Python 2 stored bytes with this function
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.core.numeric", "_frombuffer"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class or function. Raises FungiError if it is not allowed."""
        if (module, name) not in self._ALLOWED:
            raise FungiError(
                f"the ground-truth file was refused: it contains {module}.{name}, which is not plain data. "
                "Download it from its official source."
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)  # the name in NumPy 2


def landmarks_spec(landmarks: Landmarks, *, title: str, database: int, queries: int) -> DatasetSpec:
    """Return the description of a landmark dataset for the registry. database, queries: numbers of images."""
    return DatasetSpec(
        name=landmarks.name,
        title=title,
        classes=None,
        sizes={"train": database, "test": queries, "test-cropped": queries},
        metric="map",
        open=landmarks.open,
        prepare=landmarks.prepare,
        archives=(
            "kaggle datasets download -p downloads qiubit/roxfordparis",
            "# or, in place of roxfordparis.zip, the official oxbuild_images*.tgz, paris_1*.tgz and paris_2*.tgz,",
            "# with gnd_roxford5k.pkl and gnd_rparis6k.pkl",
        ),
        ground_truth=landmarks.ground_truth,
        pca_dim=512,
        notes="train is the database, test the queries, test-cropped the queries cropped to their boxes",
    )
