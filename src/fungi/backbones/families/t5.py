"""T5 small, only the encoder (spec text 1).

The embedding is the first token, because T5 has no class token, or the mean of all tokens.
"""

from functools import partial

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_hub
from fungi.backbones.text_encoders import Pooling, build_encoder, register_text, without_unused
from fungi.views.tokenizers import hub_tokenizer

REPOSITORY = "google-t5/t5-small"


def t5_encoder_names(state: StateDict) -> StateDict:
    """Return the weights of the encoder from the weights of a complete T5.

    The model has two names for the word embeddings. If the file has only the first name, the second name is added.
    """
    encoder_state = without_unused(state, ("decoder.", "lm_head."))
    if "shared.weight" in encoder_state:
        encoder_state.setdefault("encoder.embed_tokens.weight", encoder_state["shared.weight"])
    return encoder_state


POOLINGS: tuple[tuple[str, Pooling], ...] = (("t5-small", "first"), ("t5-small-mean", "mean"))
for _name, _pooling in POOLINGS:
    register_text(
        _name,
        label="T5 small" + (" (mean of tokens)" if _pooling == "mean" else ""),
        source=f"huggingface.co/{REPOSITORY}",
        tokenizer=hub_tokenizer(REPOSITORY),
        pooling=_pooling,
        embedding_dim=512,
        projection_dim=512,
        layer="encoder.block.5.layer.0.SelfAttention.o",
        weight_shape=(512, 512),
        bias=False,
        pca_dim=512,
        depth=6,
        build=partial(build_encoder, "T5Encoder", {}),
        pretrained=partial(fetch_hub, REPOSITORY),
        convert=t5_encoder_names,
    )
