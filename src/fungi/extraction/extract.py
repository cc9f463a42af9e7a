"""`extract.py`: write the embeddings of a dataset."""

from fungi.extraction.stage import StageSettings

DESCRIPTION = """Write <root>/embeddings/<dataset>/<backbone>/<split>.h5 with `embeddings` [n d] and `targets` [n].

Embeddings are computed in float32 unless --dtype says otherwise. What is there already is kept."""


def run(settings: StageSettings) -> None:
    """Extract all asked splits."""
    from fungi.extraction.features import embedding_feature
    from fungi.extraction.pipeline import extract_split
    from fungi.extraction.surroundings import survey

    dtype = "float32" if settings.dtype == "auto" else settings.dtype
    around = survey(settings, dtype)
    feature = embedding_feature(around, dtype)
    for split in around.splits:
        extract_split(around, split, [feature])
