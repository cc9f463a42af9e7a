"""Models of users: wrapped models, large models, models that disable gradients, and models of other libraries."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.gradients import projection_memory
from fungi.runtime import memory
from fungi.runtime.log import logger
from fungi.wrapper import FUNGIWrapper
from tests.library.models import LAYERS, SIZE, build, pictures, wrap

STATISTICS = {"mean": (0.1, 0.2, 0.3), "std": (0.6, 0.5, 0.4), "interpolation": "bilinear", "crop_pct": 0.8}


def timm_model() -> Any:
    """Return a model of timm with an unusual transform."""
    model: Any = build("timm")
    model.pretrained_cfg = {"architecture": "test", "input_size": (3, SIZE, SIZE), **STATISTICS}
    return model


class OwnModule(nn.Module):
    """A module that contains a model of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm_model()

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images)


WRAPPED_MODELS = {
    "data parallel": (lambda: nn.DataParallel(timm_model()), "module."),
    "compiled": (lambda: torch.compile(timm_model()), "_orig_mod."),
    "compiled in data parallel": (lambda: nn.DataParallel(torch.compile(timm_model())), "module._orig_mod."),
    "sequential": (lambda: nn.Sequential(nn.Identity(), timm_model(), nn.Identity()), "1."),
    "own module": (OwnModule, "encoder."),
}


@pytest.mark.parametrize("kind", WRAPPED_MODELS)
def test_a_wrapped_model_of_timm_gives_the_features_of_the_model_inside(kind: str) -> None:
    build_wrapped, prefix = WRAPPED_MODELS[kind]
    configs = [KLConfig(latent_dim=24)]
    expected = wrap(model=timm_model(), configs=configs)(pictures(3))
    wrapper = wrap(model=build_wrapped(), configs=configs, layer=prefix + LAYERS["timm"])
    torch.testing.assert_close(wrapper(pictures(3)), expected, rtol=1e-4, atol=1e-5)


def test_layer_names_of_a_parallel_model_can_omit_the_prefix_module() -> None:
    model = nn.DataParallel(timm_model())
    with_prefix, without_prefix = (
        wrap(model=model, configs=[KLConfig()], layer=layer)
        for layer in ("module.blocks.1.attn.proj", "blocks.1.attn.proj")
    )
    assert with_prefix.layers == without_prefix.layers == ("blocks.1.attn.proj",)
    assert with_prefix.engine.encoder.computed_part == "pooled token"


def test_a_saved_wrapper_of_a_parallel_model_can_be_loaded_with_the_model_inside(tmp_path: Any) -> None:
    model = timm_model()
    wrapper = wrap(model=nn.DataParallel(model), configs=[KLConfig()])
    wrapper.save(tmp_path)
    assert torch.equal(FUNGIWrapper.load(tmp_path, model, "cpu")(pictures(2)), wrapper(pictures(2)))


@pytest.mark.parametrize(
    "build_wrapped",
    [
        lambda: nn.Sequential(nn.BatchNorm2d(3), timm_model()),
        lambda: nn.Sequential(timm_model(), timm_model()),
    ],
    ids=["something before", "two models"],
)
def test_an_unknown_transform_gives_a_warning(build_wrapped: Any, caplog: pytest.LogCaptureFixture) -> None:
    from fungi.library.arguments import image_input_of
    from fungi.views.image import ImageInput

    with caplog.at_level(logging.WARNING, logger=logger.name):
        image_input = image_input_of(build_wrapped(), SIZE)
    assert image_input == ImageInput.square(SIZE)
    assert "the transform of this Sequential is not known" in caplog.text
    assert "Pass image_input" in caplog.text


def test_a_projection_larger_than_the_memory_is_refused_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the projection matrix was drawn")

    monkeypatch.setattr("fungi.gradients.assembly.draw_projection", fail)
    monkeypatch.setattr(projection_memory, "free_bytes", lambda device: 50_000)  # less than 24 x 600 entries of 4 bytes
    with pytest.raises(FungiError, match=r"a binary projection of 24 x 600 entries takes 0\.0 GB .*khatri-rao"):
        wrap(configs=[KLConfig()])


def test_the_argument_projection_can_be_the_name_of_a_kind_of_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_memory, "free_bytes", lambda device: 50_000)
    wrapper = wrap(configs=[KLConfig()], projection="khatri-rao")
    (projector,) = wrapper.engine.projectors.values()
    assert (projector.matrix.kind, projector.matrix.projection_dim) == ("khatri-rao", 24)
    assert wrapper(pictures(2)).shape == (2, 24)
    with pytest.raises(FungiError, match=r"unknown kind of projection 'khatri'\. Did you mean 'khatri-rao'"):
        wrap(projection="khatri")


def test_free_memory_is_limited_by_the_machine_and_the_control_group(tmp_path: Any, monkeypatch: Any) -> None:
    cpu = torch.device("cpu")
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  600 kB\n")
    monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUPS_FILE", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "GROUPS_ROOT", tmp_path / "groups")
    assert memory.free_bytes(cpu) == 600 * 1024
    job = tmp_path / "groups" / "slurm" / "job"
    job.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/slurm/job\n")
    (job / "memory.max").write_text("max\n")
    assert memory.free_bytes(cpu) == 600 * 1024
    for name, text in {"max": "500000", "current": "300000", "stat": "anon 1\ninactive_file 100000\n"}.items():
        (job.parent / f"memory.{name}").write_text(text)  # the group of all jobs has a limit, the job has none
    # Inactive files can be removed from memory, so they count as free.
    assert memory.free_bytes(cpu) == 500_000 - (300_000 - 100_000)
    monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "nowhere")
    (tmp_path / "cgroup").unlink()
    assert memory.free_bytes(cpu) is None


class WithoutGraph(nn.Module):
    """A model whose forward pass runs inside a context that disables gradients."""

    def __init__(self, context: Any) -> None:
        super().__init__()
        self.first, self.last, self.context = nn.Conv2d(3, 8, SIZE), nn.Linear(8, 8), context

    def forward(self, images: Tensor) -> Tensor:
        with self.context():
            return self.last(self.first(images).flatten(1))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_forward_pass_without_a_graph_is_refused(context: Any) -> None:
    with pytest.raises(FungiError, match=r"computes layer 'last' under torch\.no_grad.*Remove this"):
        wrap(model=WithoutGraph(context), layer="last", configs=[KLConfig()])


def test_the_error_for_a_model_of_transformers_has_working_code_that_wraps_the_model() -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model: Any = ViTModel(ViTConfig(image_size=SIZE, patch_size=8, **sizes), add_pooling_layer=False)
    layer = next(name for name, _ in model.named_modules() if name.endswith("1.attention.o_proj"))
    with pytest.raises(FungiError, match="Wrap it:") as error:
        wrap(model=model, layer=layer, configs=[KLConfig()])
    lines = str(error.value).splitlines()
    scope: dict[str, Any] = {"torch": torch, "model": model}
    exec("\n".join(lines[1:4]), scope)
    wrapped = wrap(model=scope["Encoder"](model), layer=lines[4].split('"')[1], configs=[KLConfig()])
    assert wrapped(pictures(2)).shape == (2, 24)


def test_an_input_size_that_the_model_does_not_accept_is_refused() -> None:
    with pytest.raises(FungiError, match=r"fails for images of \[3, 64, 64\] \(Input height.*input_dim"):
        FUNGIWrapper(build("timm"), LAYERS["timm"], "cpu", input_dim=64, extractor_configs=[KLConfig()])
