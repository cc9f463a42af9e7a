"""Gradients of the MAE loss equal those in transformers, on a small model in the published format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from fungi.backbones.base import resolve_backbone
from fungi.backbones.families.mae import model_names
from fungi.backbones.loading import load_backbone
from fungi.commands import COMMANDS
from fungi.config import MAEConfig
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.gradients.targets import find_targets
from fungi.objectives.binding import BoundObjective, bind
from fungi.objectives.mae import masked_squared_error
from fungi.views.image import ImageInput
from fungi.views.loading import batch_of_images
from fungi.wrapper import FUNGIWrapper
from tests.library.models import pictures, wrap

SIDE, PATCH = 32, 8  # sides of images and patches in pixels
PROJECTION = "vit.layers.1.attention.o_proj"
SIZES = {
    **{"image_size": SIDE, "patch_size": PATCH, "hidden_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "intermediate_size": 32, "decoder_hidden_size": 16},
    **{"decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32},
}
# The kernels of encoder and decoder add the values of a batch in another order, which changes the rounding of float32.
SAME_DIRECTION, SAME_NORM = 1 - 1e-5, 1e-4


def save_miniature(folder: Path, **config: Any) -> Path:
    """Save a small masked autoencoder with transformers. Its weights are larger than the usual initial values."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **config))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["pixels", "normalised pixels"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small masked autoencoder, and return its folder. Its loss is for pixels or normalised pixels."""
    return save_miniature(tmp_path_factory.mktemp("mae"), norm_pix_loss=request.param)


def transformers_model(folder: Path) -> Any:
    from transformers import ViTMAEForPreTraining

    return ViTMAEForPreTraining.from_pretrained(folder).eval()


def bound_to(input_spec: Any, **options: Any) -> BoundObjective:
    """Return the objective MAE for an input. options: its options."""
    return bind("mae", embedding_dim=24, input_spec=input_spec, seed=1, options={"patch_size": PATCH, **options})


def gradients(model: nn.Module, objective: BoundObjective, batch: Any, layer: str, views: int = 64) -> Tensor:
    """Return the gradients of a layer, `[b o*(i+1)]`. views: views per forward."""
    engine = GradientEngine(model, find_targets(model, (layer,)), device=torch.device("cpu"), views_per_forward=views)
    extracted = engine.with_encoder(objective.objective.encoder).extract(
        batch, objective.views, {"mae": objective.loss}
    )
    (flat,) = extracted.gradients["mae"].values()
    return flat


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Compare direction and norm of each row."""
    assert cosine_similarity(actual, expected, dim=1).min() > SAME_DIRECTION
    assert (actual.norm(dim=1) / expected.norm(dim=1) - 1).abs().max() < SAME_NORM


@pytest.mark.parametrize("layer", [PROJECTION, "vit.layers.0.mlp.fc1"])
def test_gradients_equal_those_of_the_loss_in_transformers(folder: Path, layer: str) -> None:
    loaded, reference = load_backbone(f"mine=hf:{folder}"), transformers_model(folder)
    assert loaded.spec.layer == PROJECTION
    objective = bound_to(loaded.input)
    batch = batch_of_images(pictures(3), [objective.views], seed=5)[objective.views.identity]
    views, module = objective.views.render(batch), reference.get_submodule(layer)
    expected = []
    for row in range(3):
        sample = {name: values[row : row + 1] for name, values in views.items()}
        loss = reference(pixel_values=sample["images"], noise=sample["noise"]).loss
        weight, bias = torch.autograd.grad(loss, [module.weight, module.bias])
        expected.append(torch.cat([weight, bias[:, None]], dim=1).flatten())
    assert_same(gradients(loaded.model, objective, batch, layer), torch.stack(expected))


def test_the_embedding_is_computed_from_the_unmasked_image(folder: Path) -> None:
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    reference = transformers_model(folder)
    reference.config.mask_ratio = 0.0
    with torch.no_grad():
        expected = reference.vit(images, noise=torch.arange(16.0).expand(2, 16)).last_hidden_state
        for form, tokens in (("hf", expected[:, 0]), ("hf-mean", expected.mean(dim=1))):
            model = load_backbone(f"mine={form}:{folder}").model
            torch.testing.assert_close(model(images), tokens, rtol=1e-4, atol=1e-5)
    assert "class token of the whole image" in resolve_backbone(f"mine=hf:{folder}").notes


def test_the_loss_equals_its_definition_in_loops() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 2, 4, 6), torch.randn(2, 2, 4, 6)
    mask = torch.tensor([[[1, 0, 1, 1], [0, 1, 0, 0]], [[1, 1, 1, 1], [0, 0, 1, 1]]], dtype=torch.bool)
    for sample, error in enumerate(masked_squared_error(prediction, target, mask)):
        views = []
        for view in range(2):
            errors = (prediction[sample, view] - target[sample, view]).square().mean(dim=1)  # [t]
            patches = [float(errors[t]) for t in range(4) if mask[sample, view, t]]
            views.append(sum(patches) / len(patches))
        assert float(error) == pytest.approx(sum(views) / 2, rel=1e-5)


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> FUNGIWrapper:
    model = load_backbone(f"mine=hf:{save_miniature(tmp_path_factory.mktemp('mae'))}").model
    return wrap(configs=[MAEConfig(patch_size=PATCH)], model=model, layer=PROJECTION)


def test_features_do_not_depend_on_the_batch_or_the_order_of_images(wrapper: FUNGIWrapper) -> None:
    wrapper.setup([(image, 0) for image in pictures(2)], check_independence=True)
    images = pictures(4)
    alone = torch.cat([wrapper([image]) for image in images])
    assert_same(wrapper(images), alone)
    assert_same(wrapper(images[::-1]).flip(0), alone)
    model, views = wrapper.extractors[0].engine.model, wrapper.extractors[0].views
    batch = batch_of_images(images, [views], seed=0)[views.identity]
    objective = bound_to(wrapper.image_input)
    assert_same(*(gradients(model, objective, batch, PROJECTION, count) for count in (1, 64)))


def test_masks_are_drawn_for_each_image_and_seed() -> None:
    views = bound_to(ImageInput(size=SIDE, resize=SIDE)).views

    def noise(seed: int) -> Tensor:
        return batch_of_images(pictures(3), [views], seed=seed)[views.identity]["noise"]

    first = noise(1)
    assert first.shape == (3, 16)
    assert len(first.unique()) == 48
    assert torch.equal(first, noise(1))
    assert not torch.isin(first, noise(2)).any()


def test_models_and_settings_that_cannot_reconstruct_are_refused(wrapper: FUNGIWrapper, tmp_path: Path) -> None:
    with pytest.raises(FungiError, match=r"VisionTransformer has no pixel decoder.*mae-vit-b16-decoder"):
        wrap(configs=[MAEConfig(patch_size=PATCH)])
    with pytest.raises(FungiError, match=r"4 patches, but the model has 16\. Set patch_size of the"):
        wrap(configs=[MAEConfig(patch_size=16)], model=wrapper.model, layer=PROJECTION)(pictures(1))
    with pytest.raises(FungiError, match="patch_size 7 does not divide the input size 32"):
        bound_to(ImageInput(size=SIDE, resize=SIDE), patch_size=7)
    for option in ({"normalize": True}, {"project": True}, {"latent_dim": 8}):
        with pytest.raises(FungiError, match="instead of a head"):
            bound_to(ImageInput(size=SIDE, resize=SIDE), **option)
    transformers_model(save_miniature(tmp_path)).vit.save_pretrained(tmp_path)
    with pytest.raises(FungiError, match=r"don't fit ViTMAEForPreTraining: decoder"):
        load_backbone(f"mine=hf:{tmp_path}")


def test_names_of_the_published_file_are_converted_to_names_of_the_model() -> None:
    """The names are copied from the published file: a block of the encoder, and a block of the decoder."""
    block = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "layernorm_before",
    }
    names = {f"vit.encoder.layer.0.{old}.weight": f"vit.layers.0.{new}.weight" for old, new in block.items()}
    names |= {
        f"decoder.decoder_layers.7.{old}.bias": f"decoder.decoder_layers.7.{new}.bias" for old, new in block.items()
    }
    names |= {name: name for name in ("vit.embeddings.cls_token", "vit.layernorm.weight", "decoder.mask_token")}
    assert list(model_names(dict.fromkeys(names, torch.zeros(1)))) == list(names.values())


@pytest.mark.slow
def test_gradients_of_mae_in_the_stages_do_not_depend_on_the_batch_size_and_need_a_pixel_decoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py

    for number, image in enumerate(pictures(3)):
        path = tmp_path / "data" / "train" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    save_miniature(tmp_path / "model")
    flags = ["--dataset", f"mine=folder:{tmp_path / 'data'}", "--backbone", f"small=hf:{tmp_path / 'model'}"]
    flags += ["--objective", "mae", "--set", f"mae.patch_size={PATCH}", "--split", "train", "--device", "cpu"]
    features = []
    for size in ("1", "3"):
        root = tmp_path / f"root-{size}"
        assert COMMANDS["extract-gradients"].main([*flags, "--root", str(root), "--batch-size", size]) == 0
        with h5py.File(root / "gradients" / "mine" / "small" / "mae-train.h5") as file:
            features.append(torch.from_numpy(file["attn_proj"][:]))
    assert_same(*features)
    assert COMMANDS["extract-gradients"].main([*flags, "--backbone", "digits-vit", "--root", str(tmp_path)]) == 2
    assert "no pixel decoder" in capsys.readouterr().err
