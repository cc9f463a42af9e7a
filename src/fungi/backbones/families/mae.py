"""Masked autoencoders. The embedding is the class token after the final norm, which has a low kNN accuracy.

`mae-vit-b16` is the encoder of the paper. `mae-vit-b16-decoder` comes from another training run, which predicted pixels
without normalisation and whose decoder is published, too. The gradients of the MAE loss need a decoder (the authors'
response to the reviewers of the paper).
"""

from functools import partial
from typing import TYPE_CHECKING

from fungi.backbones.base import StateDict, register_backbone
from fungi.backbones.sources import download_advice, download_errors
from fungi.backbones.timm_models import register_vit, renamed, timm_fields
from fungi.runtime.network import hub_answers
from fungi.views.image import IMAGENET, ImageInput

if TYPE_CHECKING:
    from torch import nn

REPOSITORY = "facebook/vit-mae-base"
INPUT = ImageInput(size=224, resize=248, interpolation="bicubic", statistics=IMAGENET)
_RENAMES = (
    (r"\bencoder\.layer\.", "layers."),
    (r"\battention\.attention\.(q|k|v)(uery|ey|alue)\.", r"attention.\1_proj."),
    (r"\battention\.output\.dense\.", "attention.o_proj."),
    (r"\bintermediate\.dense\.", "mlp.fc1."),
    (r"(?<=\d)\.output\.dense\.", ".mlp.fc2."),
)
"""Regular expressions for names in the published file, and the names in the model."""

register_vit(
    "mae-vit-b16",
    label="MAE ViT-B/16",
    size="B",
    input=INPUT,
    is_in_published_code=True,
    notes="about 24 % mean kNN accuracy is expected",
    **timm_fields("vit_base_patch16_224.mae"),
)


def _build() -> "nn.Module":
    from transformers import ViTMAEConfig

    from fungi.backbones.masked_autoencoder import masked_autoencoder

    return masked_autoencoder(ViTMAEConfig())


def _fetch(repository: str) -> StateDict:
    """Return the published weights with the decoder, from the cache of the Hugging Face hub or the network."""
    from transformers import ViTMAEForPreTraining

    only_on_disk = not hub_answers()
    # from_pretrained fails at once if it reads only the disk. So `download_errors` need not check the host again.
    with download_errors(f"of huggingface.co/{repository}", download_advice(repository), is_reachable=True):
        return ViTMAEForPreTraining.from_pretrained(repository, local_files_only=only_on_disk).state_dict()


def model_names(state: StateDict) -> StateDict:
    """Convert the names of the published file to the names of the model. Names of the model do not change."""
    return {renamed(name, _RENAMES): tensor for name, tensor in state.items()}


register_backbone(
    name="mae-vit-b16-decoder",
    label="MAE ViT-B/16 with decoder",
    source=f"huggingface.co/{REPOSITORY}",
    embedding_dim=768,
    projection_dim=768,
    layer="vit.layers.11.attention.o_proj",
    weight_shape=(768, 768),
    pca_dim=512,
    depth=12,
    patch_size=16,
    input=INPUT,
    build=_build,
    pretrained=partial(_fetch, REPOSITORY),
    convert=model_names,
    notes="with the decoder that --objective mae needs; its weights differ from those of mae-vit-b16",
)
