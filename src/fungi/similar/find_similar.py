"""`fungi similar`: show the pictures of a folder that are most similar to a query."""

from pathlib import Path

from fungi.errors import FungiError, counted
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger
from fungi.similar.settings import SimilarSettings

DESCRIPTION = """Index a folder of pictures once, with its subfolders, and show the most similar pictures on one page:

  fungi similar --images holidays --query holidays/beach.jpg

The page shows the neighbours by embeddings next to the neighbours by embeddings and gradients. No labels are needed.
The features of indexed pictures are not computed again, so the second query takes about a second. KL and DINO cost 13
forward passes per picture. SimCLR costs 49 more, and often gains the most."""


def run(settings: SimilarSettings) -> None:
    """Update the index and write the page."""
    from fungi.data.formats.image_files import decode
    from fungi.similar.index import Index, nearest, pictures_below
    from fungi.similar.page import Answer, page

    for path in settings.query:
        decode(path, path.name, as_displayed=True)  # raises an error before any long work if a query can't be read
    pictures, index = pictures_below(settings.images), Index.read(settings.index_folder)
    new = index.missing([*pictures, *(path.resolve() for path in settings.query)])
    damaged = {path for path in new if not _is_readable(path)}
    pictures, new = ([path for path in paths if path not in damaged] for paths in (pictures, new))
    if new:
        from fungi.similar.features import compute_features

        for indexed, features, parts in compute_features(settings, pictures, new):
            index = index.joined(indexed, features, parts)
            index.write(settings.index_folder)
    answers = []
    for path in settings.query:
        others = [picture for picture in pictures if picture != path.resolve()]
        if not others:
            raise FungiError(f"--images {settings.images} contains no picture except the query. Name another folder.")
        neighbours = {}
        for feature, columns in index.columns.items():
            query, keys = index.rows([path.resolve()], columns), index.rows(others, columns)
            neighbours[feature] = [(others[row], score) for row, score in nearest(query, keys, settings.neighbours)]
        answers.append(Answer(path, neighbours))
    write_text_atomically(settings.output, page(answers, settings.images, settings.backbone, settings.objective))
    print(f"wrote {settings.output}: {counted(len(pictures), 'picture')}; added to the index: {len(new):,}")


def _is_readable(path: Path) -> bool:
    """Return whether a picture can be read; if not, log the reason."""
    from fungi.data.formats.image_files import decode

    try:
        decode(path, path.name, as_displayed=True)
    except FungiError as error:
        logger.warning(f"left out: {error}")
        return False
    return True
