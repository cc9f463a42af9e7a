"""What text backbones have in common: an encoder of `transformers` that gives one vector per text.

The model is the library's own class with another `forward`, so that layer paths and names of weights are the library's.
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
    """Register a text backbone under a pooling."""
    return BACKBONES.register(name, text_spec(name, tokenizer=tokenizer, pooling=pooling, longest=longest, **fields))


def text_spec(
    name: str, *, tokenizer: TokenizerSource, pooling: Pooling, longest: int = 512, build: Any, **fields: Any
) -> BackboneSpec:
    """A text backbone; `build` takes a pooling. The published profile has its own word deletion and SimCLR."""
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
    """An architecture of `transformers` (`Bert`, `T5Encoder`) with its random initialisation."""
    import transformers

    config = getattr(transformers, f"{architecture.removesuffix('Encoder')}Config")(**options)
    return pooled(getattr(transformers, f"{architecture}Model"), pooling)(config, **arguments)


def pooled(encoder: Any, pooling: Pooling) -> Any:
    """A model class whose forward gives embeddings `[n d]` in place of hidden states.

    first: the hidden state of the first token; mean: the mean over the tokens that are no padding.
    """
    from torch import Tensor

    from fungi.views.tokens import mean_of_tokens

    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = encoder.forward(self, input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden[:, 0] if pooling == "first" else mean_of_tokens(hidden, attention_mask)

    return type(encoder.__name__, (encoder,), {"forward": forward})


def without(state: StateDict, unused: tuple[str, ...], *, prefix: str = "") -> StateDict:
    """A state dict without the named heads, and without a prefix that all kept names have."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(unused)}
    return {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
