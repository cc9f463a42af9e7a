"""BERT base, uncased: embedding from the class token, or the mean of all tokens (spec text 1)."""

from functools import partial

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_hub
from fungi.backbones.text_encoders import Pooling, build_encoder, register_text, without_unused
from fungi.views.tokenizers import hub_tokenizer

REPOSITORY = "google-bert/bert-base-uncased"
UNUSED = ("cls.", "bert.pooler.", "pooler.", "bert.embeddings.position_ids", "embeddings.position_ids")
"""Starts of names in the published file that the model does not have."""


def bert_names(state: StateDict) -> StateDict:
    """Convert the names of the published file to the names of `BertModel` without its pooler.

    The LayerNorms of the file have TensorFlow's names.
    """
    encoder_state = without_unused(state, UNUSED, prefix="bert.")
    return {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): tensor
        for name, tensor in encoder_state.items()
    }


POOLINGS: tuple[tuple[str, Pooling], ...] = (("bert-base-uncased", "first"), ("bert-base-uncased-mean", "mean"))
for _name, _pooling in POOLINGS:
    register_text(
        _name,
        label="BERT base" + (" (mean of tokens)" if _pooling == "mean" else ""),
        source=f"huggingface.co/{REPOSITORY}",
        tokenizer=hub_tokenizer(REPOSITORY),
        pooling=_pooling,
        embedding_dim=768,
        projection_dim=768,
        layer="encoder.layer.11.attention.output.dense",
        weight_shape=(768, 768),
        pca_dim=512,
        depth=12,
        build=partial(build_encoder, "Bert", {}, add_pooling_layer=False),
        pretrained=partial(fetch_hub, REPOSITORY),
        convert=bert_names,
    )
