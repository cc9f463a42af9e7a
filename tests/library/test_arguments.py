"""Wrong arguments of the library are refused before anything is computed, with a solution in the message."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fungi.backbones.base import BACKBONES
from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.gradients.assembly import width_of
from fungi.gradients.projection import draw_projection
from fungi.library.search import faiss_index, nearest_images
from fungi.runtime.log import logger
from fungi.views.image import ImageInput
from fungi.wrapper import FUNGIWrapper
from tests.backbones.small import with_slow_marks
from tests.library.models import SIZE, build, pictures, set_up_wrapper, wrap
from tests.library.test_laws import OwnConfig, equal_up_to_rounding
from tests.library.test_mistakes import OneView

SMALL = KLConfig(latent_dim=24)
# A projection matrix, whose entries are 1 and -1. The layer has 24 outputs, and 24 inputs and a bias.
SIGNS = draw_projection(projection_dim=6, gradient_dim=24 * 25).dense()


def make_wrapper(**arguments: Any) -> FUNGIWrapper:
    """Return a wrapper with one objective. arguments: replace the default arguments."""
    defaults = {"model": build("timm"), "target_layer": "blocks.1.attn.proj", "device": "cpu", "input_dim": SIZE}
    return FUNGIWrapper(**{**defaults, "extractor_configs": [SMALL], **arguments})


# Name of a mistake -> a call with this mistake, and a part of the error message.
CALLS = {
    "half-model": (
        lambda: make_wrapper(model=build("timm").half()),
        r"weights are float16.*model\.float\(\).*use_fp16=True",
    ),
    "bfloat16-model": (lambda: make_wrapper(model=build("timm").bfloat16()), "weights are bfloat16"),
    "double-model": (lambda: make_wrapper(model=build("timm").double()), "weights are float64"),
    "no-model": (lambda: make_wrapper(model="dino_vitb16"), r"the model is a str, not a torch\.nn\.Module"),
    "one-config": (
        lambda: make_wrapper(extractor_configs=SMALL),
        r"is a single configuration\. Pass a list: \[KLConfig",
    ),
    "a-class": (
        lambda: make_wrapper(extractor_configs=[KLConfig]),
        "has KLConfig, which is not a configuration.*Pass objects",
    ),
    "a-name": (lambda: make_wrapper(extractor_configs=["kl"]), "has str, which is not a configuration"),
    "no-configs": (lambda: make_wrapper(extractor_configs=None), "extractor_configs is a NoneType. Pass a list"),
    "device": (lambda: make_wrapper(device="cuad"), "device 'cuad' is not a device of torch"),
    "no-device": (lambda: make_wrapper(device=None), "device None is not a device of torch"),
    "no-gpu": (lambda: make_wrapper(device="cuda:99"), r"device 'cuda:99': torch sees \d GPUs here"),
    "layer": (lambda: make_wrapper(target_layer=None), "target_layer is None. Pass a path"),
    "layers": (lambda: make_wrapper(target_layer=[1]), r"target_layer is \[1\]\. Pass a path"),
    "image-input": (
        lambda: make_wrapper(image_input=ImageInput(size=2 * SIZE)),
        "image_input is for 64 pixels, input_dim is 32. Give both the same number",
    ),
    "input-dim": (lambda: make_wrapper(input_dim=0), "input_dim is 0. Pass a whole number, at least 1"),
    "seed": (lambda: make_wrapper(seed=-1), "seed is -1. Pass a whole number, at least 0"),
    "views": (lambda: make_wrapper(views_per_forward=-1), "views_per_forward is -1"),
    "half-type": (
        lambda: make_wrapper(use_fp16=True, fp16_dtype=torch.int8),
        r"fp16_dtype is torch\.int8\. Use torch\.bfloat16",
    ),
    "numpy-projection": (lambda: make_wrapper(projection=SIGNS.numpy()), "the projection is a ndarray. Pass a tensor"),
    "flat-projection": (
        lambda: make_wrapper(projection=SIGNS[0]),
        r"the projection is a tensor \[600\]\. Pass a tensor \[p, entries of the gradient\]",
    ),
    "random-projection": (lambda: make_wrapper(projection=torch.randn(6, 600)), r"entries other than \+1 and -1"),
    "zero-projection": (lambda: make_wrapper(projection=torch.zeros(6, 600)), r"entries other than \+1 and -1"),
    "bits-projection": (lambda: make_wrapper(projection=(SIGNS > 0).to(torch.uint8)), r"entries other than \+1 and -1"),
    "nan-projection": (lambda: make_wrapper(projection=SIGNS * torch.nan), r"entries other than \+1 and -1"),
    "named-projection": (lambda: make_wrapper(projection={"attn_proj": SIGNS * 2}), r"entries other than \+1 and -1"),
    "one-image": (
        lambda: make_wrapper()(pictures(1)[0]),
        r"the images are a Image\. Pass a list of PIL images, e\.g\. wrapper",
    ),
    "image-batch": (
        lambda: make_wrapper()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)),
        "the images are a Tensor. Pass a list",
    ),
    "arrays": (lambda: make_wrapper()([np.zeros((8, 8, 3), np.uint8)]), "image 0 is a ndarray, not a PIL image"),
    "no-images": (lambda: make_wrapper()(None), "the images are a NoneType"),
    "batch-size": (
        lambda: make_wrapper().extract(pictures(2), batch_size=0),
        "batch_size is 0. Pass a whole number, at least 1",
    ),
    "batch-text": (
        lambda: make_wrapper().extract(pictures(2), batch_size="8"),
        "batch_size is '8'. Pass a whole number",
    ),
    "workers": (
        lambda: make_wrapper().extract(pictures(2), num_workers=-2),
        "num_workers is -2. Pass a whole number, at least -1",
    ),
    "pca-batch": (lambda: make_wrapper().fit_pca(pictures(2), 2, batch_size=0), "batch_size is 0"),
    "pca-dim": (lambda: make_wrapper().fit_pca(pictures(2), 0), "dim is 0. Pass a whole number, at least 1"),
    "pca-share": (lambda: make_wrapper().fit_pca(pictures(2), 0.9), "dim is 0.9. Pass a whole number, at least 1"),
    "pca-numpy": (
        lambda: make_wrapper().fit_pca(np.zeros((9, 24)), 2),
        r"features are a ndarray\. Pass a tensor.*from_numpy",
    ),
    "pca-uint8": (
        lambda: make_wrapper().fit_pca(torch.zeros(9, 24, dtype=torch.uint8), 2),
        r"features are uint8 \[9, 24\]",
    ),
    "pca-width": (
        lambda: make_wrapper().fit_pca(torch.zeros(9, 7), 2),
        "of size 24 before the PCA, but `data` has size 7",
    ),
    "setup-number": (
        lambda: make_wrapper().setup(3, check_independence=True),
        "has no length",
    ),
    "index-numpy": (lambda: faiss_index(np.zeros((9, 4), np.float32)), "features are a ndarray. Pass a tensor"),
    "index-uint8": (lambda: faiss_index(torch.zeros(9, 4, dtype=torch.uint8)), "features are uint8"),
    "query-width": (
        lambda: nearest_images(faiss_index(torch.ones(9, 4)), torch.ones(2, 3), 1),
        "have 3 entries, but the features in the index have 4",
    ),
    "query-k": (
        lambda: nearest_images(faiss_index(torch.ones(9, 4)), torch.ones(2, 4), 0),
        "k is 0. Pass a whole number",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_with_a_solution(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(FungiError, match=message):
        call()


def test_a_device_can_be_a_text_or_a_torch_device() -> None:
    assert make_wrapper(device="cpu").device == make_wrapper(device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize("view", [np.zeros((3, 32, 32), np.float32), torch.zeros(3, 32, 32, dtype=torch.uint8)])
def test_views_have_to_be_floating_point_tensors(view: Any) -> None:
    class ArrayViews(OneView):
        def input_transform(self, input_dim: int) -> Any:
            return lambda image: view

    with pytest.raises(FungiError, match=r"input_transform of ArrayViews gave (ndarray|uint8).*has to return"):
        wrap(configs=[OwnConfig(ArrayViews)])(pictures(1))


def test_a_loss_has_to_be_a_tensor() -> None:
    class Number(OneView):
        def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Any:
            return latents.detach().sum().item()

    with pytest.raises(FungiError, match="compute_loss of Number returned float"):
        wrap(configs=[OwnConfig(Number)])(pictures(1))


@pytest.mark.parametrize("kind", ["gaussian", "sparse", "binary"])
def test_a_projection_matrix_of_every_kind_is_accepted(kind: str) -> None:
    matrix = draw_projection(projection_dim=6, gradient_dim=24 * 25, kind=kind)
    wrapper = make_wrapper(projection=matrix)
    assert torch.equal(wrapper.extractors[0].projection, matrix.dense())
    assert wrapper(pictures(1)).shape == (1, 6)


# Classifiers


class Classifier(nn.Module):
    """A model with features of size 8, and a classifier layer with the given name."""

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.first, self.name = nn.Conv2d(3, 8, 32), name
        self.last = nn.Linear(8, 8)
        setattr(self, name, nn.Linear(8, classes))

    def forward(self, images: Tensor) -> Tensor:
        return getattr(self, self.name)(self.last(self.first(images).flatten(1)))


def warnings_of(model: nn.Module, layer: str, caplog: pytest.LogCaptureFixture) -> str:
    """Return what is logged when a wrapper of the model is created."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger=logger.name):
        make_wrapper(model=model, target_layer=layer, extractor_configs=[KLConfig(latent_dim=4)])
    return caplog.text


@pytest.mark.parametrize("name", ["fc", "head", "classifier"])
def test_class_scores_instead_of_an_embedding_give_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    warnings = warnings_of(Classifier(name, 1000), "last", caplog)
    assert f"the outputs of its layer {name!r}, which look like class scores" in warnings
    assert f"model.{name} = torch.nn.Identity()" in warnings


def test_a_classifier_of_timm_gives_a_warning_and_an_encoder_does_not(caplog: pytest.LogCaptureFixture) -> None:
    import timm

    options = {"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    classifier = timm.create_model("vit_tiny_patch16_224", pretrained=False, **options)
    assert "'head', which look like class scores" in warnings_of(classifier, "blocks.1.attn.proj", caplog)
    assert warnings_of(build("timm"), "blocks.1.attn.proj", caplog) == ""
    assert warnings_of(Classifier("projection", 16), "last", caplog) == ""
    clip = timm.create_model("vit_base_patch16_clip_224.openai", pretrained=False, **options, num_classes=16)
    assert warnings_of(clip, "blocks.1.attn.proj", caplog) == "", "its head is the projection to the joint space"


# Sizes


@pytest.mark.parametrize(
    "name",
    with_slow_marks(
        lambda spec: spec.projection_dim == spec.embedding_dim,
        [name for name in BACKBONES if BACKBONES[name].modality == "vision"],
    ),
)
def test_the_library_and_the_stages_project_to_the_same_size(name: str) -> None:
    spec = BACKBONES[name]
    with torch.device("meta"):
        model = spec.build()
    assert width_of(model, spec.embedding_dim) == spec.projection_dim


def test_gradients_of_a_joint_space_model_are_as_wide_as_the_blocks_of_the_model() -> None:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=16)
    model.pretrained_cfg = {"architecture": "vit_base_patch16_clip_224"}
    wrapper = make_wrapper(model=model, include_embeddings=True)
    assert list(wrapper.parts.values()) == [16, 24]  # the embedding in the joint space, and the gradients
    expected = draw_projection(projection_dim=24, gradient_dim=24 * 25, seed=42).dense()
    assert torch.equal(wrapper.extractors[0].projection, expected)


# Pictures


def test_16_bit_grey_images_have_the_features_of_their_upper_8_bits() -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    unsigned_16_bit = Image.fromarray(values.astype(np.uint16) << 8 | 7)  # the lower 8 bits are 7
    assert unsigned_16_bit.mode == "I;16"
    stored_in_32_bit = Image.fromarray(values.astype(np.int32) << 8)
    wrapper = set_up_wrapper()
    expected = wrapper([Image.fromarray(values)])
    assert equal_up_to_rounding(wrapper([unsigned_16_bit]), expected)
    assert equal_up_to_rounding(wrapper([stored_in_32_bit]), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.eye(8, dtype=np.float32), "image 0: its grey values are fractions"),
        (np.eye(8, dtype=np.int32), "image 0: its grey values are whole numbers from 0 to 1 and may have 8, 16 or 32"),
        (np.eye(8, dtype=np.int32) << 20, "whole numbers from 0 to 1048576"),
        (np.eye(8, dtype=np.int32) * -300, "whole numbers from -300 to 0"),
    ],
)
def test_grey_values_with_an_unknown_maximum_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(FungiError, match=message):
        set_up_wrapper()([Image.fromarray(values)])


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_contains_the_bias_only_on_request(bias: bool) -> None:
    wrapper = make_wrapper(bias=bias)
    assert wrapper.extractors[0].projection.shape == (24, 24 * (24 + bias))


def test_views_per_forward_is_passed_to_the_engine() -> None:
    assert make_wrapper(views_per_forward=7).engine.views_per_forward == 7
    assert make_wrapper().engine.views_per_forward == 64
