"""`extract.py`: write the embeddings of a dataset."""

from fungi.extraction.stage import StageSettings
from fungi.runtime.log import logger

DESCRIPTION = """Write <root>/embeddings/<dataset>/<backbone>/<split>.h5 with `embeddings` [n d] and `targets` [n].

  python extract.py --dataset flowers102 --backbone dino_vitb16
  python extract.py --dataset birds=folder:/path/to/birds --backbone sharp=timm:convnext_tiny.fb_in22k

Embeddings are computed in float32 unless --dtype is given. Finished files are kept."""


def run(settings: StageSettings) -> None:
    """Extract the embeddings of all splits in the settings."""
    from fungi.extraction.context import resolve_context
    from fungi.extraction.features import cost_of, embedding_feature
    from fungi.extraction.pipeline import extract_split

    dtype = "float32" if settings.dtype == "auto" else settings.dtype
    context = resolve_context(settings, dtype)
    feature = embedding_feature(context, dtype)
    for split in context.splits:
        logger.info(f"{split}: {cost_of(context.backbone.spec, len(context.open_split(split)), [feature])}")
        extract_split(context, split, [feature])
