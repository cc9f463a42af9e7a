"""`extract_gradients.py`: write the projected per-sample gradients of one or more objectives."""

from fungi.extraction.gradient_settings import GradientSettings
from fungi.runtime.log import logger

DESCRIPTION = """Write <root>/gradients/<dataset>/<backbone>/<objective>-<split>.h5 with one array [n p] per layer.

  python extract_gradients.py --dataset flowers102 --backbone dino_vitb16 --objective kl dino simclr --with-embeddings
  python extract_gradients.py --dataset birds=split:/path/to/birds --backbone mine=hf:/path/to/model --objective kl

Each image is decoded only once for all objectives (and for the embeddings, with --with-embeddings). Without
--projection-matrix, the default matrix of the backbone is drawn once and stored below <root>/projections."""


def run(settings: GradientSettings) -> None:
    """Write the gradients for every objective and split in the settings."""
    from fungi.extraction.context import resolve_context
    from fungi.extraction.features import cost_of, gradient_features, require_options
    from fungi.extraction.pipeline import extract_split

    require_options(settings)
    context = resolve_context(settings)
    features = gradient_features(settings, context)
    for split in context.splits:
        logger.info(f"{split}: {cost_of(context.backbone.spec, len(context.open_split(split)), features)}")
        extract_split(context, split, features)
