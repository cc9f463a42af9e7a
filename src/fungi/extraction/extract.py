"""`extract.py`: write the embeddings of a dataset."""

from fungi.extraction.stage import StageSettings

DESCRIPTION = """Write <root>/embeddings/<dataset>/<backbone>/<split>.h5 with `embeddings` [n d] and `targets` [n].

Embeddings are computed in float32 unless --dtype says otherwise. What is there already is kept."""


def run(settings: StageSettings) -> None:
    """Extract all asked splits."""
    from fungi.extraction.cost import cost_of
    from fungi.extraction.features import embedding_feature
    from fungi.extraction.pipeline import extract_split
    from fungi.extraction.surroundings import survey
    from fungi.runtime.log import logger

    dtype = "float32" if settings.dtype == "auto" else settings.dtype
    around = survey(settings, dtype)
    feature = embedding_feature(around, dtype)
    for split in around.splits:
        logger.info(f"{split}: {cost_of(around.backbone.spec, len(around.open_split(split)), [feature])}")
        extract_split(around, split, [feature])
