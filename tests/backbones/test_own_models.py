"""Models of users from timm and `transformers`: transform, pooling and gradient source are detected and described."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fungi.backbones.base import resolve_backbone
from fungi.backbones.loading import load_backbone
from fungi.backbones.own.structure import gradient_source
from fungi.errors import FungiError
from fungi.gradients.targets import find_target
from tests.daily import slow_after_first

SIDE = 48  # pixels


def picture(width: int, height: int) -> Image.Image:
    """Return a picture of noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def view(input_spec: object) -> torch.Tensor:
    """Return the view of a picture that is wider than high, `[1 c h w]`."""
    views = input_spec.views("plain")
    return views.render(views.collate([views.prepare(picture(200, 120))]))


# Small test models of timm: id -> embedding size, gradient source, description of the pooling.
SMALL_MODELS = {
    "test_vit.r160_in1k": (64, "blocks.5.attn.proj", "pooling: token"),
    "test_resnet.r160_in1k": (96, "layer4.0.conv2", "pooling: avg"),
    "test_efficientnet.r160_in1k": (256, "conv_head", "pooling: avg"),
    "test_convnext.r160_in1k": (64, "stages.3.blocks.1.mlp.fc2", "pooling: avg"),
}


@pytest.mark.parametrize("model", slow_after_first(SMALL_MODELS))
def test_a_model_of_timm_gives_the_embedding_of_timm(model: str) -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    backbone = load_backbone(f"mine=timm:{model}", random_init=True)
    size, layer, pooling = SMALL_MODELS[model]
    assert (backbone.spec.name, backbone.spec.embedding_dim, backbone.spec.layer) == ("mine", size, layer)
    assert pooling in backbone.spec.notes
    assert f"gradient source {layer}" in backbone.spec.notes
    assert find_target(backbone.model, layer).gradient_dim == backbone.spec.gradient_dim

    original = timm.create_model(model, pretrained=False, num_classes=0).eval()
    original.load_state_dict(backbone.model.state_dict())
    transform = create_transform(**resolve_model_data_config(original))
    expected = transform(picture(200, 120)).unsqueeze(0)
    actual = view(backbone.input)
    # The crops are equal up to a shift of one pixel, because timm rounds the longer side of the resized image down.
    assert actual.shape == expected.shape
    assert float(np.corrcoef(actual.flatten(), expected.flatten())[0, 1]) > 0.9
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(expected), original(expected))


def test_the_classifier_in_weights_of_timm_is_dropped(tmp_path: Path) -> None:
    import timm

    classifier = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "resnet.pth")
    backbone = load_backbone("mine=timm:test_resnet.r160_in1k", checkpoint=tmp_path / "resnet.pth")
    assert torch.equal(backbone.model.layer4[0].conv2.weight, classifier.layer4[0].conv2.weight)


def test_the_gradient_source_is_called_once_and_is_an_output_projection_if_there_is_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    # The lists contain the paths of the layers in the order of their calls.
    assert gradient_source(model, ["0", "1", "1"]) == ("0", "last layer that is computed")
    assert gradient_source(model, ["blocks.0.attn.proj", "head"])[0] == "blocks.0.attn.proj"
    with pytest.raises(FungiError, match="no linear or convolution layer"):
        gradient_source(model, ["1", "1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine=timm:resnet5", r"unknown model of timm 'resnet5'\. Did you mean 'resnet50'"),
        ("mine=timm:resnet50.nope", r"unknown weights of timm 'resnet50.nope'\. Did you mean 'resnet50\."),
    ],
)
def test_errors_for_unknown_ids_of_timm_name_similar_ids(text: str, message: str) -> None:
    with pytest.raises(FungiError, match=message):
        resolve_backbone(text)


def saved_vit(folder: Path) -> nn.Module:
    """Save a model and its image processor, and return the model."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = ViTModel(ViTConfig(image_size=SIDE, patch_size=16, **sizes), add_pooling_layer=False)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}, resample=2, image_mean=[0.1] * 3).save_pretrained(folder)
    return model.eval()


def saved_resnet(folder: Path) -> nn.Module:
    """Save a model and its image processor, and return the model."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": SIDE}, crop_pct=0.75).save_pretrained(folder)
    return model.eval()


def saved_clip(folder: Path) -> nn.Module:
    """Save a model with a text encoder and an image encoder, and return the image encoder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 20}, vision_config={**sizes, "image_size": SIDE, "patch_size": 16}
    )
    model = CLIPModel(config)
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model.vision_model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "part_of_layer", "pool"),
    [
        (saved_vit, "attention", lambda output: output.last_hidden_state[:, 0]),
        (saved_resnet, "convolution", lambda output: output.pooler_output.flatten(1)),
        (saved_clip, "self_attn.out_proj", lambda output: output.pooler_output),
    ],
)
def test_an_image_model_of_transformers_gives_the_embedding_of_transformers(
    save, part_of_layer, pool, tmp_path
) -> None:
    from transformers import AutoImageProcessor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = save(tmp_path)
    backbone = load_backbone(f"mine=hf:{tmp_path}")
    assert part_of_layer in backbone.spec.layer
    assert f"gradient source {backbone.spec.layer}" in backbone.spec.notes
    expected = AutoImageProcessor.from_pretrained(tmp_path)(picture(200, 120), return_tensors="pt")["pixel_values"]
    actual = view(backbone.input)
    assert actual.shape == expected.shape
    assert float(np.corrcoef(actual.flatten(), expected.flatten())[0, 1]) > 0.95
    with torch.no_grad():
        pooled_output = pool(original(expected))
        torch.testing.assert_close(backbone.model(expected), pooled_output, rtol=1e-4, atol=1e-5)
        mean_output = load_backbone(f"mine=hf-mean:{tmp_path}").model(expected)
    assert mean_output.shape == pooled_output.shape


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_spectrograms_are_padded_as_in_the_feature_extractor_of_transformers(tmp_path) -> None:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = ASTModel(ASTConfig(max_length=100, **sizes)).eval()
    original.save_pretrained(tmp_path)
    extractor = ASTFeatureExtractor(max_length=100, mean=-4.0, std=4.5)
    extractor.save_pretrained(tmp_path)
    backbone = load_backbone(f"mine=hf:{tmp_path}")
    assert (backbone.spec.modality, backbone.input.frames, backbone.input.mean) == ("audio", 100, -4.0)
    short = torch.randn(2, 70, 128, generator=torch.Generator().manual_seed(0))
    silence = torch.full((2, 30, 128), (0 - extractor.mean) / (2 * extractor.std))
    with torch.no_grad():
        pooled_output = original(torch.cat([short, silence], dim=1)).pooler_output
        torch.testing.assert_close(backbone.model(short), pooled_output, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_model_of_another_kind_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(FungiError, match=r"type 'wav2vec2', which takes neither images nor texts nor spectrograms"):
        resolve_backbone(f"mine=hf:{tmp_path}")


@pytest.mark.slow
def test_the_structure_and_the_cost_of_a_model_are_logged(tmp_path, capfd) -> None:
    from fungi.commands import COMMANDS

    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            picture(60, 50).save(tmp_path / "data" / split / label / "picture.png")
    arguments = f"--dataset two=folder:{tmp_path / 'data'} --backbone mine=timm:test_vit.r160_in1k --random-init"
    arguments += f" --root {tmp_path / 'features'} --objective kl dino --with-embeddings --split test"
    assert COMMANDS["extract-gradients"].main(arguments.split()) == 0
    log = capfd.readouterr().err
    assert "mine: pooling: token, no classifier; gradient source blocks.5.attn.proj (last attention output" in log
    assert "test: 2 rows, 26 forwards of" in log  # per row, 1 for KL and the embedding, and 12 for DINO
    assert (tmp_path / "features/gradients/two/mine/dino-test.h5").is_file()
