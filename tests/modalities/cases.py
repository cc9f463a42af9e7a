"""Cases for tests: small backbones for texts and sounds, with items of very different lengths."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fungi.backbones.base import BACKBONES, BackboneSpec
from fungi.backbones.families.ssast import build as build_ssast
from fungi.backbones.families.tiny_bert import WORDS, hashed_words
from fungi.backbones.text_encoders import build_encoder
from fungi.data.formats.sounds import SAMPLE_RATE
from fungi.views.tokenizers import TokenizerSource

LONG = " ".join(f"word{number}" for number in range(60))
TEXTS = ["How far is it from Denver to Aspen ?", "", "one", LONG, "Refund, please: it's late!", "a b c d e f g"]
BERT = {
    "vocab_size": WORDS.size,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
}
T5 = {"vocab_size": WORDS.size, "d_model": 24, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3}
SSAST = {"width": 24, "depth": 2, "heads": 3}


def sounds() -> list[np.ndarray]:
    """Return a second of noise, a second of silence, one frame, and a sound longer than the spectrogram."""
    generator = np.random.default_rng(0)
    lengths = (SAMPLE_RATE, SAMPLE_RATE, 400, 2 * SAMPLE_RATE)
    waveforms = [(0.1 * generator.standard_normal(length)).astype(np.float32) for length in lengths]
    waveforms[1][:] = 0
    return waveforms


@dataclass(frozen=True)
class Case:
    """A small backbone, its gradient sources, and items for it."""

    spec: BackboneSpec
    layers: tuple[str, ...]
    items: Callable[[], list[Any]]

    def model(self) -> torch.nn.Module:
        """Return the network with random weights, also for biases and scales."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.spec.build()
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
        return model.eval().requires_grad_(False)


def _text_case(name: str, build: Any, layers: tuple[str, ...]) -> Case:
    """Return a case that has the registered settings of a backbone, but a small network and a simple tokenizer."""
    spec = BACKBONES[name]
    input_spec = replace(spec.input, tokenizer=TokenizerSource("hashed words", hashed_words))
    return Case(replace(spec, build=build, input=input_spec, embedding_dim=24), layers, lambda: TEXTS)


def _bert(pooling: str) -> Any:
    """Return a function that builds a small BERT."""
    return lambda: build_encoder("Bert", BERT, pooling, add_pooling_layer=False)


def _t5(pooling: str) -> Any:
    """Return a function that builds the encoder of a small T5."""
    return lambda: build_encoder("T5Encoder", T5, pooling)


def _audio_case(name: str, pooling: str, layers: tuple[str, ...]) -> Case:
    """Return a case that has the registered settings of a backbone, but a small network and short spectrograms."""
    spec = BACKBONES[name]
    input_spec = replace(spec.input, frames=128)
    small_spec = replace(spec, build=lambda: build_ssast(pooling, SSAST), input=input_spec, embedding_dim=24)
    return Case(small_spec, layers, sounds)


BERT_LAYER, T5_LAYER = "encoder.layer.1.attention.output.dense", "encoder.block.1.layer.0.SelfAttention.o"
CASES = {
    "bert, first token": _text_case("bert-base-uncased", _bert("first"), (BERT_LAYER,)),
    "bert, mean of tokens": _text_case("bert-base-uncased-mean", _bert("mean"), (BERT_LAYER,)),
    "bert, earlier layers": _text_case(
        "bert-base-uncased", _bert("first"), ("encoder.layer.0.attention.self.value", "encoder.layer.0.output.dense")
    ),
    "t5, first token": _text_case("t5-small", _t5("first"), (T5_LAYER,)),
    "t5, mean of tokens": _text_case("t5-small-mean", _t5("mean"), (T5_LAYER,)),
    "ssast, leading tokens": _audio_case("patch-ssast", "cls_dist", ("blocks.1.attn.proj",)),
    "ssast, mean of patches": _audio_case("patch-ssast-mean", "mean_patches", ("blocks.1.attn.proj",)),
    "ssast, qkv": _audio_case("patch-ssast", "cls_dist", ("blocks.1.attn.qkv",)),
}
