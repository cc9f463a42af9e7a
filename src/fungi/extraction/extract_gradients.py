"""`extract_gradients.py`: write the projected per-sample gradients of one or more objectives."""

from fungi.extraction.gradient_settings import GradientSettings

DESCRIPTION = """Write <root>/gradients/<dataset>/<backbone>/<objective>-<split>.h5 with one array [n p] per layer.

Several objectives, and the embeddings with --with-embeddings, come from one decode of each image. Without
--projection-matrix the backbone's usual matrix is drawn once and kept under <root>/projections."""


def run(settings: GradientSettings) -> None:
    """Extract all asked objectives of all asked splits."""
    from fungi.extraction.cost import cost_of
    from fungi.extraction.features import gradient_features
    from fungi.extraction.pipeline import extract_split
    from fungi.extraction.surroundings import survey
    from fungi.runtime.log import logger

    around = survey(settings)
    features = gradient_features(settings, around)
    for split in around.splits:
        logger.info(f"{split}: {cost_of(around.backbone.spec, len(around.open_split(split)), features)}")
        extract_split(around, split, features)
