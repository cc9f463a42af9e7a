"""`fungi similar`: what is most like a picture in a folder, by embeddings and by FUNGI side by side."""

from pathlib import Path

from fungi.errors import FungiError
from fungi.runtime.files import write_whole
from fungi.runtime.log import logger
from fungi.similar.settings import SimilarSettings

DESCRIPTION = """Index a folder of pictures once (subfolders too), and show what is most like a picture, on one page:

  fungi similar --images holidays --query holidays/beach.jpg

Neighbours by embeddings alone stand beside those by embeddings and gradients. No labels are needed. Pictures that were
indexed are not computed again: the same command takes a second. KL and DINO need 13 forwards per picture; simclr is
worth its 49 more where time is no matter."""


def run(settings: SimilarSettings) -> None:
    """Bring the index up to date, and write the page."""
    from fungi.data.formats.image_files import decode
    from fungi.similar.index import Index, nearest, pictures_below
    from fungi.similar.page import Answer, page

    for path in settings.query:
        decode(path, path.name)  # what can't be read is said before anything long
    pictures, index = pictures_below(settings.images), Index.read(settings.index_folder)
    wanted = [*pictures, *(path.resolve() for path in settings.query)]
    lacking = index.lacking(wanted)
    damaged = {path for path in lacking if not _is_readable(path)}
    pictures, lacking = ([path for path in paths if path not in damaged] for paths in (pictures, lacking))
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
    write_whole(settings.output, page(answers, settings.images, settings.backbone, settings.objective))
    print(f"wrote {settings.output}: {len(pictures):,} pictures, {len(lacking):,} of them computed now")


def _is_readable(path: Path) -> bool:
    """Whether a picture can be read; one that can't is named, and left out."""
    from fungi.data.formats.image_files import decode

    try:
        decode(path, path.name)
    except FungiError as error:
        logger.warning(f"left out: {error}")
        return False
    return True
