"""`fungi similar`: what is most like a picture in a folder, by embeddings and by FUNGI side by side."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError, MissingFilesError, unknown_name
from fungi.settings import SEEDS, required, setting

DESCRIPTION = """Index a folder of pictures once (subfolders too), and show what is most like a picture, on one page:

  fungi similar --images holidays --query holidays/beach.jpg

Neighbours by embeddings alone stand beside those by embeddings and gradients. No labels are needed. Pictures that were
indexed are not computed again: the same command takes a second. KL and DINO need 13 forwards per picture; simclr is
worth its 49 more where time is no matter."""

OBJECTIVES = ("kl", "dino", "simclr")


@dataclass(frozen=True, kw_only=True)
class SimilarSettings:
    """Flags of `fungi similar`."""

    images: Path = required("folder of pictures, with its subfolders")
    query: tuple[Path, ...] = setting((), "pictures to find neighbours of, in the folder or elsewhere")
    neighbours: int = setting(10, "neighbours to show", within=(1, 1000))
    backbone: str = setting("efficientnet-lite0", "vision backbone: a name of `fungi list backbones`, or NAME=timm:ID")
    checkpoint: Path | None = setting(None, "weights from this file in place of the published ones")
    objective: tuple[str, ...] = setting(("kl", "dino"), "gradients of kl, dino, simclr")
    output: Path = setting(Path("similar.html"), "the page to write")
    root: Path = setting(Path("features"), "folder of the index, below similar/")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    batch_size: int = setting(16, "pictures that are computed together", within=(1, 65_536))
    seed: int = setting(42, "seed of heads, projection and views", within=SEEDS)

    def __post_init__(self) -> None:
        if not self.images.is_dir():
            raise MissingFilesError(f"--images {self.images} is no folder.")
        if not self.query:
            raise FungiError("no picture is given. Name one with --query.")
        for path in self.query:
            if not path.is_file():
                raise MissingFilesError(f"--query {path} is not there.")
        if not self.objective:
            raise FungiError("no objective is given. Name some with --objective.")
        for name in self.objective:
            if name not in OBJECTIVES:
                raise unknown_name("objective", name, OBJECTIVES)

    @property
    def index_folder(self) -> Path:
        """One index per folder of pictures and per all that decides the features."""
        decides = (self.images.resolve(), self.backbone, self.checkpoint, sorted(self.objective), self.seed)
        return self.root / "similar" / hashlib.sha256(repr(decides).encode()).hexdigest()[:16]


def run(settings: SimilarSettings) -> None:
    """Bring the index up to date, and write the page."""
    from fungi.runtime.files import written_whole
    from fungi.similar.index import Index, pictures_below
    from fungi.similar.neighbours import nearest
    from fungi.similar.page import Answer, page

    pictures, index = pictures_below(settings.images), Index.read(settings.index_folder)
    wanted = [*pictures, *(path.resolve() for path in settings.query)]
    lacking = index.lacking(wanted)
    if lacking:
        from fungi.similar.features import compute

        for done, features, parts in compute(settings, pictures, lacking):
            index = index.joined(done, features, parts)
            index.write(settings.index_folder)
    answers = []
    for path in settings.query:
        others = [picture for picture in pictures if picture != path.resolve()]
        if not others:
            raise FungiError(f"--images {settings.images} holds no picture but the query.")
        ways = {
            way: nearest(index.rows([path.resolve()], columns), index.rows(others, columns), settings.neighbours)
            for way, columns in index.ways.items()
        }
        answers.append(
            Answer(path, {way: [(others[row], score) for row, score in found] for way, found in ways.items()})
        )
    with written_whole(settings.output) as unfinished:
        unfinished.write_text(page(answers, settings.images, settings.backbone, settings.objective))
    print(f"wrote {settings.output}: {len(pictures):,} pictures, {len(lacking):,} of them computed now")
