"""Shared code of the text backbones: encoders of `transformers` that return one vector per text.

The class of a model is a subclass of the library's class. The subclass only has another `forward`, so layer paths and
weight names do not change.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fungi.backbones.base import BACKBONES, BackboneSpec, StateDict
from fungi.views.text import TextInput
from fungi.views.tokenizers import TokenizerSource

if TYPE_CHECKING:
    from torch import nn

Pooling = Literal["first", "mean"]


def register_text(
    name: str, *, tokenizer: TokenizerSource, pooling: Pooling, longest: int = 512, **fields: Any
) -> BackboneSpec:
    """Register a text backbone; see `text_spec`."""
    return BACKBONES.register(name, text_spec(name, tokenizer=tokenizer, pooling=pooling, longest=longest, **fields))


def text_spec(
    name: str, *, tokenizer: TokenizerSource, pooling: Pooling, longest: int = 512, build: Any, **fields: Any
) -> BackboneSpec:
    """Return the `BackboneSpec` of a text backbone.

    build: function that returns the model for a pooling. pooling: see `pooled_class`. longest: largest number of tokens
    of a text. The published profile differs in word deletion and in the temperature of SimCLR (spec text 6, T1, T2).
    """
    text_input = TextInput(tokenizer=tokenizer, longest=longest)
    return BackboneSpec(
        name=name,
        modality="text",
        input=text_input,
        published_input=replace(text_input, deletion="count", denominator_temperature=False),
        build=partial(build, pooling),
        **fields,
    )


def build_encoder(architecture: str, options: Mapping[str, Any], pooling: Pooling, **arguments: Any) -> "nn.Module":
    """Return a model of an architecture of `transformers` (`Bert`, `T5Encoder`) with random initialisation.

    options: fields of the configuration that differ from the defaults. arguments: other arguments of the model.
    """
    import transformers

    config = getattr(transformers, f"{architecture.removesuffix('Encoder')}Config")(**options)
    return pooled_class(getattr(transformers, f"{architecture}Model"), pooling)(config, **arguments)


def pooled_class(encoder: Any, pooling: Pooling) -> Any:
    """Return a subclass of an encoder class whose forward returns embeddings `[n d]` instead of hidden states.

    pooling: `first` for the hidden state of the first token, `mean` for the mean of all tokens except padding.
    """
    from torch import Tensor

    from fungi.views.tokens import mean_of_tokens

    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = encoder.forward(self, input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden[:, 0] if pooling == "first" else mean_of_tokens(hidden, attention_mask)

    return type(encoder.__name__, (encoder,), {"forward": forward})


def without_unused(state: StateDict, unused: tuple[str, ...], *, prefix: str = "") -> StateDict:
    """Return the entries whose names do not start with a text in `unused`, and remove `prefix` from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if not name.startswith(unused)}
