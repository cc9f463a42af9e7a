"""Text encoders of the user: models of `transformers`. The embedding is the first token or the mean of all tokens."""

from functools import partial
from typing import Any

from fungi.backbones.base import BackboneSpec
from fungi.backbones.own.hub import fetch, model_options
from fungi.backbones.own.structure import OUTPUT_PROJECTIONS
from fungi.backbones.text_encoders import Pooling, pooled_class, text_spec
from fungi.errors import FungiError
from fungi.runtime.log import logger
from fungi.views.tokenizers import hub_tokenizer

FEWEST_TOKENS = 3  # a word between two special tokens
MOST_TOKENS = 512  # the limit of the text backbones in the paper


def text_backbone(name: str, place: str, config: Any, *, mean: bool) -> BackboneSpec:
    """Return the backbone `name` for the model at `place`. Raises FungiError if `transformers` has no encoder for it.

    config: configuration of the model. mean: use the mean of all tokens as the embedding.
    """
    import torch

    pooling: Pooling = "mean" if mean else "first"
    build = partial(_build, config)
    with torch.device("meta"):
        model = build(pooling)
    layer_path, layer = _output_projection(model)
    width = int(config.hidden_size)
    longest = max_tokens(model)
    if longest < FEWEST_TOKENS:
        raise FungiError(f"{place}: the model has {longest} positions; {FEWEST_TOKENS} are needed.")
    return text_spec(
        name,
        label=name,
        source=place,
        tokenizer=hub_tokenizer(name, place, embedding_rows=model.get_input_embeddings().num_embeddings),
        longest=longest,
        pooling=pooling,
        embedding_dim=width,
        projection_dim=width,
        layer=layer_path,
        weight_shape=tuple(layer.weight.shape),
        bias=layer.bias is not None,
        pca_dim=min(width, 512),
        build=build,
        pretrained=lambda: fetch(_model_class(config), config, place),
        notes=f"embedding: {'mean of the tokens' if mean else 'first token'}; gradient source {layer_path}; "
        f"texts are cut to {longest} tokens",
    )


def max_tokens(model: Any) -> int:
    """Return the largest number of tokens that a text can have: the number of learned positions of the model, or 512.

    In a table of positions with a padding row (RoBERTa, for example), positions start after this row. For a model
    without a table (T5, rotary positions), the number is in the configuration. If there is no number, or if the number
    is greater than 512, return 512.
    """
    from torch import nn

    embeddings = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    tables = [module for name, module in embeddings if name.endswith("position_embeddings")]
    limits = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
    configured = getattr(model.config, "max_position_embeddings", None)
    if not limits and isinstance(configured, int) and configured > 0:
        limits = [configured]
    return min([MOST_TOKENS, *limits])


def _model_class(config: Any) -> Any:
    """Return the encoder class of `transformers` for a configuration. Raises FungiError if there is none."""
    from transformers import AutoModel, AutoModelForTextEncoding

    # For T5, AutoModelForTextEncoding has the encoder, and AutoModel has the encoder with the decoder.
    for auto_class in (AutoModelForTextEncoding, AutoModel):
        if type(config) in auto_class._model_mapping:
            return auto_class._model_mapping[type(config)]
    raise FungiError(f"transformers has no encoder for a model of type {config.model_type!r}.")


def _build(config: Any, pooling: Pooling) -> Any:
    model = _model_class(config)
    return pooled_class(model, pooling)(config, **model_options(model))


def _output_projection(model: Any) -> tuple[str, Any]:
    """Return (path, module) of the last attention output projection.

    If no layer has a known name of an output projection, log a warning and return the last linear layer. Raises
    FungiError if there is no linear layer.
    """
    from torch import nn

    linear_layers = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not linear_layers:
        raise FungiError("the model has no linear layer to take gradients at.")
    output_projections = [path for path in linear_layers if path.endswith(OUTPUT_PROJECTIONS)]
    if not output_projections:
        logger.warning(
            "no attention output projection is known in a %s: using its last linear layer. Change it with --layer.",
            type(model).__name__,
        )
    path = (output_projections or list(linear_layers))[-1]
    return path, linear_layers[path]
