"""Compare sizes, gradient source and transform of every backbone with tables, and with its model.

Models are built on the meta device, where weights need no memory.
"""

import os
import subprocess
import sys

import pytest
import torch

from fungi.backbones.base import BACKBONES, resolve_backbone
from fungi.backbones.loading import choose_input
from fungi.errors import FungiError, unknown_name
from fungi.profiles import PROFILES
from fungi.views.image import CLIP, HALF, IMAGENET, UNIT
from tests.backbones.small import with_slow_marks

WEIGHT_S, WEIGHT_B, WEIGHT_L = (384, 384), (768, 768), (1024, 1024)
LAST_OF_12, LAST_OF_24 = "blocks.11.attn.proj", "blocks.23.attn.proj"
# Embedding size, gradient source, shape of the weight, whether there is a bias, gradient size, projection size and PCA
# size (spec vision 2.1, except for backbones that are not in the paper).
VIT_S = (384, LAST_OF_12, WEIGHT_S, True, 147840, 384, 384)
VIT_B = (768, LAST_OF_12, WEIGHT_B, True, 590592, 768, 512)
VIT_L = (1024, LAST_OF_24, WEIGHT_L, True, 1049600, 1024, 512)
CLIP_B = (512, LAST_OF_12, WEIGHT_B, True, 590592, 768, 512)
CLIP_L = (768, LAST_OF_24, WEIGHT_L, True, 1049600, 1024, 512)
TABLE = {  # the backbones of the published code come first
    "vit-b16": VIT_B,
    "vit-b32": VIT_B,
    "vit-s16": VIT_S,
    "vit-b16-augreg-in1k": VIT_B,
    "vit-s16-augreg-in21k": VIT_S,
    "vit-b16-augreg-in21k": VIT_B,
    "vit-l16-augreg-in21k": VIT_L,
    "mae-vit-b16": VIT_B,
    "vit-b16-mocov3": VIT_B,
    "dino_vitb16": VIT_B,
    "dinov2_vitb14": VIT_B,
    "clip-vit-b16": CLIP_B,
    "eva-clip-vit-b16": CLIP_B,
    "dino_vits16": VIT_S,
    "dinov2_vitl14": VIT_L,
    "clip-vit-l14": CLIP_L,
    "clip-vit-b16-quickgelu": CLIP_B,
    "clip-vit-l14-quickgelu": CLIP_L,
    "deit3-vit-b16": VIT_B,
    "deit3-vit-h14": (1280, "blocks.31.attn.proj", (1280, 1280), True, 1639680, 1280, 512),
    "deit-s16": VIT_S,
    "deit-b16": VIT_B,
    "vit-l16": VIT_L,
    "random-vit-b16": VIT_B,
    "mobileclip-s1": (512, "stages.3.blocks.3.token_mixer.proj", (512, 512), True, 262656, 512, 512),
    "clip-resnet50": (1024, "stages.3.2.conv3_1x1.conv", (2048, 512, 1, 1), False, 1048576, 1024, 512),
    "mocov2-resnet50": (2048, "layer4.2.conv3", (2048, 512, 1, 1), False, 1048576, 2048, 512),
    "digits-vit": (96, "blocks.3.attn.proj", (96, 96), True, 9312, 96, 96),
    **{
        name + ending: shape
        for name, shape in {
            "udi-vits16": VIT_S,
            "udi-vitb16": VIT_B,
            "udi-vitt16": (192, LAST_OF_12, (192, 192), True, 37056, 192, 192),
            "udi-micro": (64, "blocks.2.attn.proj", (64, 64), True, 4160, 64, 64),
        }.items()
        for ending in ("", "-one-token")
    },
}
VIT_H = (1280, "blocks.31.attn.proj", (1280, 1280), True, 1639680, 1280, 512)
VIT_G = (1536, "blocks.39.attn.proj", (1536, 1536), True, 2360832, 1536, 512)
# Sizes in the model cards.
RECENT_FAMILIES = {
    "dinov2_vits14": VIT_S,
    "dinov2_vitg14": VIT_G,
    "dinov2_vits14_reg": VIT_S,
    "dinov2_vitb14_reg": VIT_B,
    "dinov2_vitl14_reg": VIT_L,
    "dinov2_vitg14_reg": VIT_G,
    "dinov3_vits16": VIT_S,
    "dinov3_vits16plus": VIT_S,
    "dinov3_vitb16": VIT_B,
    "dinov3_vitl16": VIT_L,
    "dinov3_vith16plus": VIT_H,
    "siglip2-base-patch16-224": VIT_B,
    "siglip2-large-patch16-256": VIT_L,
    "siglip2-so400m-patch14-224": (1152, "blocks.26.attn.proj", (1152, 1152), True, 1328256, 1152, 512),
    "PE-Core-B16-224": (1024, LAST_OF_12, WEIGHT_B, True, 590592, 768, 512),
    "PE-Core-L14-336": (1024, LAST_OF_24, WEIGHT_L, True, 1049600, 1024, 512),
    "aimv2-large-patch14-224": (1024, LAST_OF_24, WEIGHT_L, False, 1048576, 1024, 512),
}
TABLE |= RECENT_FAMILIES
TABLE["efficientnet-lite0"] = (1280, "conv_head", (1280, 320, 1, 1), False, 409600, 1280, 512)
TABLE["mae-vit-b16-decoder"] = (768, "vit.layers.11.attention.o_proj", *VIT_B[2:])
IN_PUBLISHED_CODE = list(TABLE)[:13]

# Size after resizing, interpolation, size of the crop, mean and deviation of the channels (spec vision 2.2).
TRANSFORMS = {
    "vit-b16": (256, "bilinear", 224, IMAGENET),
    "vit-b32": (256, "bilinear", 224, IMAGENET),
    "vit-l16": (242, "bilinear", 224, IMAGENET),
    "vit-s16": (248, "bicubic", 224, HALF),
    "vit-b16-augreg-in1k": (248, "bicubic", 224, HALF),
    "vit-s16-augreg-in21k": (248, "bicubic", 224, HALF),
    "vit-b16-augreg-in21k": (248, "bicubic", 224, HALF),
    "vit-l16-augreg-in21k": (248, "bicubic", 224, HALF),
    "eva-clip-vit-b16": (248, "bicubic", 224, CLIP),
    "clip-vit-b16": (248, "bicubic", 224, CLIP),
    "clip-vit-b16-quickgelu": (248, "bicubic", 224, CLIP),
    "mae-vit-b16": (248, "bicubic", 224, IMAGENET),
    "mae-vit-b16-decoder": (248, "bicubic", 224, IMAGENET),
    "vit-b16-mocov3": (256, "bilinear", 224, IMAGENET),
    "dino_vitb16": (256, "bicubic", 224, IMAGENET),
    "dino_vits16": (256, "bicubic", 224, IMAGENET),
    "dinov2_vitb14": (256, "bicubic", 224, IMAGENET),
    "dinov2_vitl14": (256, "bicubic", 224, IMAGENET),
    "clip-vit-l14": (224, "bicubic", 224, CLIP),
    "clip-vit-l14-quickgelu": (224, "bicubic", 224, CLIP),
    "deit3-vit-b16": (248, "bicubic", 224, IMAGENET),
    "deit3-vit-h14": (248, "bicubic", 224, IMAGENET),
    "deit-s16": (248, "bicubic", 224, IMAGENET),
    "deit-b16": (248, "bicubic", 224, IMAGENET),
    "mobileclip-s1": (269, "bicubic", 256, UNIT),
    "clip-resnet50": (248, "bicubic", 224, CLIP),
    "mocov2-resnet50": (256, "bilinear", 224, IMAGENET),
    "random-vit-b16": (248, "bicubic", 224, HALF),
    "digits-vit": (32, "bicubic", 32, HALF),
    **{name: (256, "bicubic", 224, IMAGENET) for name in RECENT_FAMILIES if name.startswith("dinov")},
    "siglip2-base-patch16-224": (224, "bilinear", 224, HALF),
    "siglip2-large-patch16-256": (256, "bilinear", 256, HALF),
    "siglip2-so400m-patch14-224": (224, "bilinear", 224, HALF),
    "PE-Core-B16-224": (224, "bilinear", 224, HALF),
    "PE-Core-L14-336": (336, "bilinear", 336, HALF),
    "aimv2-large-patch14-224": (224, "bicubic", 224, CLIP),
    "efficientnet-lite0": (256, "bicubic", 224, HALF),
    **{
        f"udi-{size}{ending}": (32, "bicubic", 32, IMAGENET) if size == "micro" else (256, "bicubic", 224, IMAGENET)
        for size in ("vits16", "vitt16", "vitb16", "micro")
        for ending in ("", "-one-token")
    },
}
# Backbones for which the published code used the default transform of timm (spec vision 10, V2).
WRONG_IN_PUBLISHED_CODE = {name for name in TABLE if "augreg" in name} | {"vit-s16", "eva-clip-vit-b16"}
VISION = [name for name in BACKBONES if BACKBONES[name].modality == "vision"]
WITH_SLOW_MARKS = with_slow_marks(lambda spec: getattr(spec.convert, "func", spec.convert), VISION)


@pytest.fixture(scope="module")
def on_meta():
    """Return a function that builds a backbone on the meta device, once per name."""
    models = {}

    def build(name: str) -> torch.nn.Module:
        if name not in models:
            with torch.device("meta"):
                models[name] = BACKBONES[name].build().eval()
        return models[name]

    return build


def test_every_backbone_of_the_tables_is_registered():
    # A registered backbone need not be in the tables, because a new backbone needs only one file.
    assert set(TABLE) == set(TRANSFORMS)
    assert set(TABLE) <= set(VISION)


def test_the_thirteen_backbones_of_the_published_code_are_marked():
    assert {name for name in VISION if BACKBONES[name].is_in_published_code} == set(IN_PUBLISHED_CODE)
    assert len(IN_PUBLISHED_CODE) == 13


@pytest.mark.parametrize("name", TABLE)
def test_sizes_are_those_of_the_table(name):
    spec = BACKBONES[name]
    sizes = (spec.embedding_dim, spec.layer, spec.weight_shape, spec.bias, spec.gradient_dim, spec.projection_dim)
    assert (*sizes, spec.pca_dim) == TABLE[name]


@pytest.mark.parametrize("name", WITH_SLOW_MARKS)
def test_the_gradient_source_is_in_the_model(name, on_meta):
    layer = on_meta(name).get_submodule(BACKBONES[name].layer)
    assert isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    assert tuple(layer.weight.shape) == BACKBONES[name].weight_shape
    assert (layer.bias is not None) == BACKBONES[name].bias


@pytest.mark.parametrize("name", WITH_SLOW_MARKS)
def test_blocks_and_patches_are_those_of_the_architecture(name, on_meta):
    spec, model = BACKBONES[name], on_meta(name)
    blocks = next((module for path, module in model.named_modules() if path.endswith(("blocks", "vit.layers"))), [])
    # Of the registered backbones, only convolutional networks have batch normalisation.
    is_transformer = not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert spec.depth == (len(blocks) if is_transformer else 0)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert spec.patch_size == (convolutions[0].stride[0] if is_transformer else 0)


@pytest.mark.parametrize("name", WITH_SLOW_MARKS)
def test_the_model_gives_one_embedding_per_image(name, on_meta):
    spec = BACKBONES[name]
    images = torch.empty(2, 3, spec.input.size, spec.input.size, device="meta")
    with torch.no_grad():
        assert on_meta(name)(images).shape == (2, spec.embedding_dim)


@pytest.mark.parametrize("name", WITH_SLOW_MARKS)
def test_weights_in_the_names_of_the_model_are_unchanged(name, on_meta):
    state = on_meta(name).state_dict()
    converted = BACKBONES[name].convert(dict(state))
    assert converted.keys() == state.keys()
    assert all(converted[key].shape == value.shape for key, value in state.items())


@pytest.mark.parametrize("name", VISION)
def test_every_layer_path_can_start_with_backbone(name):
    spec = BACKBONES[name]
    assert spec.layer_path(spec.layer) == spec.layer
    assert spec.layer_path(f"backbone.{spec.layer}") == spec.layer


@pytest.mark.parametrize("name", TABLE)
def test_transforms_are_those_of_the_table(name):
    input_spec = BACKBONES[name].input
    assert (input_spec.resize, input_spec.interpolation, input_spec.size, input_spec.statistics) == TRANSFORMS[name]
    assert input_spec.view_statistics is None


@pytest.mark.parametrize("name", VISION)
def test_the_clean_profile_keeps_the_transform_of_the_backbone(name):
    assert choose_input(BACKBONES[name], PROFILES["clean"]) == BACKBONES[name].input


@pytest.mark.parametrize("name", TABLE)
def test_the_published_profile_gives_the_transform_of_the_published_code(name):
    input_spec = choose_input(BACKBONES[name], PROFILES["published"])
    expected = (256, "bicubic", 224, IMAGENET) if name in WRONG_IN_PUBLISHED_CODE else TRANSFORMS[name]
    assert (input_spec.resize, input_spec.interpolation, input_spec.size, input_spec.statistics) == expected
    assert input_spec.view_statistics == IMAGENET


def test_only_torchvision_vits_have_the_deviation_of_the_attention_input():
    assert {name for name in VISION if BACKBONES[name].attention_input} == {"vit-b16", "vit-b32", "vit-l16"}


@pytest.mark.parametrize(
    ("name", "publisher_path", "path"),
    [
        ("vit-b16", "encoder.layers.encoder_layer_11.self_attention.out_proj", "blocks.11.attn.proj"),
        ("vit-b32", "backbone.encoder.layers.encoder_layer_11.self_attention.out_proj", "blocks.11.attn.proj"),
        ("vit-b16", "backbone.encoder.layers.encoder_layer_3.self_attention", "blocks.3.attn"),
        ("vit-b16", "encoder.layers.encoder_layer_0.self_attention.in_proj", "blocks.0.attn.qkv"),
        ("vit-l16", "encoder.layers.encoder_layer_23.mlp.0", "blocks.23.mlp.fc1"),
        ("vit-b16", "encoder.layers.encoder_layer_10.mlp.3", "blocks.10.mlp.fc2"),
        ("vit-b16", "encoder.layers.encoder_layer_10.ln_1", "blocks.10.norm1"),
        ("vit-b16", "blocks.4.mlp.fc2", "blocks.4.mlp.fc2"),
        ("clip-resnet50", "backbone.layer4.2.conv3", "stages.3.2.conv3_1x1.conv"),
        ("clip-resnet50", "layer1.0.conv2", "stages.0.0.conv2_kxk.conv"),
    ],
)
def test_layer_paths_in_the_model_of_the_publisher_are_converted(name, publisher_path, path, on_meta):
    assert BACKBONES[name].layer_path(publisher_path) == path
    on_meta(name).get_submodule(path)


def test_quickgelu_variants_have_another_activation_and_the_same_input(on_meta):
    x = torch.linspace(-3, 3, 13)
    gelu, quickgelu = (on_meta(name).blocks[0].mlp.act for name in ("clip-vit-b16", "clip-vit-b16-quickgelu"))
    assert torch.allclose(gelu(x), torch.nn.functional.gelu(x))
    assert torch.allclose(quickgelu(x), x * torch.sigmoid(1.702 * x))
    assert BACKBONES["clip-vit-b16"].input == BACKBONES["clip-vit-b16-quickgelu"].input


def test_urls_equal_those_in_the_libraries():
    import timm.models
    import torchvision.models

    for name, weights in (("vit-b16", "ViT_B_16"), ("vit-b32", "ViT_B_32"), ("vit-l16", "ViT_L_16")):
        url = getattr(torchvision.models, f"{weights}_Weights").IMAGENET1K_V1.url
        assert BACKBONES[name].source == f"torchvision {url.rsplit('/', 1)[-1]}"
        assert _url_of(name) == url
    for name, name_in_timm in (
        ("dino_vitb16", "vit_base_patch16_224.dino"),
        ("dino_vits16", "vit_small_patch16_224.dino"),
        ("dinov2_vitb14", "vit_base_patch14_dinov2.lvd142m"),
        ("dinov2_vitl14", "vit_large_patch14_dinov2.lvd142m"),
        ("dinov2_vitg14", "vit_giant_patch14_dinov2.lvd142m"),
        ("dinov2_vits14_reg", "vit_small_patch14_reg4_dinov2.lvd142m"),
    ):
        assert _url_of(name) == timm.models.get_pretrained_cfg(name_in_timm).url


def _url_of(name: str) -> str:
    return BACKBONES[name].pretrained.args[0]


def test_the_error_for_an_unknown_name_proposes_similar_names():
    with pytest.raises(FungiError, match=r"unknown backbone 'vit-b6'\. Did you mean 'vit-b\d6'"):
        BACKBONES["vit-b6"]


@pytest.mark.parametrize(
    ("text", "solution"),
    [
        ("timm:resnet18", "--backbone resnet18=timm:resnet18."),
        ("timm:convnext_tiny.fb_in22k", "--backbone convnext_tiny.fb_in22k=timm:convnext_tiny.fb_in22k."),
        ("hf:facebook/dinov2 small/", "--backbone dinov2-small=hf:facebook/dinov2 small/."),
        ("hf-mean:..", "--backbone mine=hf-mean:..."),  # the place `..`, and the full stop of the sentence
    ],
)
def test_the_error_for_a_description_without_a_name_proposes_a_name(text, solution):
    with pytest.raises(FungiError) as error:
        resolve_backbone(text)
    assert str(error.value).endswith(f"Write {solution}")


@pytest.mark.parametrize(
    "text", ["dino_vitb61", "zzzzz", "resnet-50", "mine=timm:vit_bas", "mine=timm:resnet50.nope", "a=b"]
)
def test_errors_for_unknown_names_are_short(text):
    with pytest.raises(FungiError) as error:
        resolve_backbone(text)
    message = str(error.value)
    assert len(message) < 300
    assert "Did you mean" not in message or message.endswith("?")


def test_a_long_list_of_names_ends_with_the_number_of_other_names():
    message = str(unknown_name("thing", "zzz", [f"name{number:03}" for number in range(100)]))
    assert message.startswith("unknown thing 'zzz'. Known: name000, name001,")
    known_names, ending = message.rsplit(" and ", 1)
    assert ending == f"{100 - known_names.count('name')} more."
    assert str(unknown_name("thing", "zzz", ["a"])) == "unknown thing 'zzz'. Known: a."


def test_listing_names_does_not_import_a_large_library():
    program = (
        "import sys; from fungi.backbones.base import BACKBONES; BACKBONES.names(); "
        "print([name for name in ('torch', 'torchvision', 'timm', 'transformers') if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert process.stdout.strip() == "[]"
