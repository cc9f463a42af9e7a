"""`tiny-bert`: a small BERT with random weights that needs no files, for first experiments and tests."""

from functools import partial

from fungi.backbones.sources import random_weights
from fungi.backbones.text_encoders import build_encoder, register_text
from fungi.views.tokenizers import HashedWords, TokenizerSource

NAME, SEED, WIDTH, DEPTH = "tiny-bert", 42, 128, 2
WORDS = HashedWords()
SIZES = {
    "vocab_size": WORDS.size,
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 4 * WIDTH,
}
build = partial(build_encoder, "Bert", SIZES, add_pooling_layer=False)


def hashed_words() -> HashedWords:
    """Return the tokenizer of `tiny-bert`, which needs no vocabulary file."""
    return WORDS


register_text(
    NAME,
    label="tiny BERT, random weights",
    source=f"random initialisation, seed {SEED}",
    tokenizer=TokenizerSource("hashed words", hashed_words),
    pooling="mean",
    embedding_dim=WIDTH,
    projection_dim=WIDTH,
    layer=f"encoder.layer.{DEPTH - 1}.attention.output.dense",
    weight_shape=(WIDTH, WIDTH),
    pca_dim=WIDTH,
    depth=DEPTH,
    build=build,
    pretrained=partial(random_weights, partial(build, "mean"), SEED, NAME),
    notes="never trained: a control that needs no download",
)
