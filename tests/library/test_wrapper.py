"""Basic behaviour of the wrapper: import, names, log messages, default settings and compilation."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fungi.wrapper as wrapper_module
from fungi.backbones.base import BACKBONES
from fungi.backbones.encoders import is_convolutional
from fungi.config import DINOConfig, IBOTConfig, KLConfig
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.library import collection
from fungi.library.collection import log_cost
from fungi.runtime.compiled_code import share_compiled_code
from tests.library.models import build, pictures, set_up_wrapper, wrap


@pytest.mark.slow
def test_the_package_exports_the_wrapper_and_imports_torch_only_when_needed() -> None:
    program = (
        "import sys, fungi; has_torch = 'torch' in sys.modules; from fungi import FUNGIWrapper; "
        "print(has_torch, FUNGIWrapper.__module__, hasattr(fungi, 'unknown_name'))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["False", "fungi.wrapper", "False"]


def test_the_repr_of_a_wrapper_is_one_line() -> None:
    text = repr(wrap(configs=[KLConfig(latent_dim=24)], include_embeddings=True))
    assert text == ("FUNGIWrapper(VisionTransformer at blocks.1.attn.proj on cpu: embeddings 24, kl 24)")


def test_two_layers_with_the_same_short_name_get_unique_names() -> None:
    layers = ["blocks.0.attn.proj", "blocks.1.attn.proj"]
    images, configs = pictures(2), [KLConfig(latent_dim=24)]
    wrapper = wrap(configs=configs, layer=layers)
    assert list(wrapper.engine.projectors) == ["blocks_0_attn_proj", "blocks_1_attn_proj"]
    parts = wrapper(images).split(24, dim=1)
    for part, layer in zip(parts, layers, strict=True):
        torch.testing.assert_close(part, wrap(configs=configs, layer=layer)(images), rtol=1e-4, atol=1e-6)


def test_two_layers_with_the_same_given_name_are_refused() -> None:
    with pytest.raises(FungiError, match="two layers have the name 'same'"):
        wrap(configs=[KLConfig()], layer=["blocks.0.attn.proj:same", "blocks.1.attn.proj:same"])


def test_the_default_patch_size_comes_from_the_model() -> None:
    automatic = set_up_wrapper(configs=[IBOTConfig(latent_dim=16)])
    explicit = set_up_wrapper(configs=[IBOTConfig(latent_dim=16, patch_size=8)])
    assert torch.equal(automatic(pictures(1)), explicit(pictures(1)))


def test_a_model_without_patch_size_needs_the_setting_patch_size() -> None:
    with pytest.raises(FungiError, match=r"the patch size of a Convolutions is not known\. Set patch_size"):
        wrap("convolutions", configs=[IBOTConfig()], model=build("convolutions"))


@pytest.mark.parametrize(("seconds", "level", "text"), [(2.0, "INFO", "20 s"), (60.0, "WARNING", "10 min")])
def test_the_cost_is_logged_and_long_work_gives_a_warning(
    seconds: float, level: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fungi"):
        log_cost(rows=100, first_batch=torch.zeros(10, 1_000), seconds=seconds)
    (record,) = caplog.records
    assert record.levelname == level
    assert f"about {text}; features [100, 1000]: 400 kB" in record.message


def test_extract_logs_its_cost_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fungi"):
        wrap(configs=[KLConfig(latent_dim=24)]).extract(pictures(5), batch_size=2)
    assert sum("5 images at" in record.message for record in caplog.records) == 1


def test_parts_are_named_after_objectives_and_after_layers_if_there_are_several_layers() -> None:
    configs = [KLConfig(latent_dim=24), DINOConfig(latent_dim=24), KLConfig(latent_dim=12)]
    assert list(wrap(configs=configs, include_embeddings=True).parts) == ["embeddings", "kl", "dino", "kl-2"]
    layers = ["blocks.0.attn.proj", "blocks.1.attn.proj"]
    names = ["kl.blocks_0_attn_proj", "kl.blocks_1_attn_proj"]
    assert list(wrap(configs=configs[:1], layer=layers).parts) == names


def test_the_package_names_the_wrapper_without_importing_torch() -> None:
    program = "import sys, fungi; print('FUNGIWrapper' in dir(fungi), 'torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("num_workers", "device", "batches", "expected"),
    [(-1, "cpu", 100, 0), (-1, "cuda", 100, 7), (-1, "cuda", 2, 2), (3, "cuda", 1, 3), (0, "cuda", 100, 0)],
)
def test_workers_are_used_by_default_only_with_a_gpu(
    num_workers: int, device: str, batches: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "usable_cores", lambda: 8)
    assert collection.decoding_workers(num_workers, torch.device(device), batches) == expected


@pytest.mark.parametrize("user_folder", ["", "/folder-of-the-user"])
@pytest.mark.parametrize("cache_folder", ["", "caches"])
def test_wrappers_on_gpus_of_the_same_model_share_compiled_code(
    cache_folder: str, user_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder = cache_folder and str(tmp_path / cache_folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    calls: list[tuple[Path, torch.device]] = []
    monkeypatch.setattr(wrapper_module, "share_compiled_code", lambda folder, device: calls.append((folder, device)))
    monkeypatch.setattr(GradientEngine, "compile", lambda self: None)
    monkeypatch.setenv("XDG_CACHE_HOME", cache_folder)
    wrap()
    assert calls == []
    wrap(compile=True)
    shared_folder = Path(cache_folder or tmp_path / ".cache") / "fungi" / "compiled"
    assert calls == [(shared_folder, torch.device("cpu"))]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", user_folder)
    if not user_folder:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    share_compiled_code(shared_folder, torch.device("cuda"))
    expected = user_folder or str(shared_folder.resolve() / "NVIDIA-H200")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected


def test_every_engine_of_a_wrapper_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[GradientEngine] = []
    monkeypatch.setattr(GradientEngine, "compile", lambda self: engines.append(self))
    wrap(configs=[KLConfig(latent_dim=24), DINOConfig(latent_dim=24)], include_embeddings=True)
    assert engines == []
    configs = [KLConfig(), IBOTConfig(patch_size=8)]
    wrapper = wrap(configs=configs, include_embeddings=True, compile=True, use_fp16=True)
    ids = {id(engine) for engine in engines}
    # KL, iBOT (its forward pass has all tokens) and the embeddings (in float32) have different engines.
    assert len(engines) == len(ids) == 3
    assert ids == {id(feature.engine) for feature in wrapper._computed_features}


@pytest.mark.parametrize(("name", "expected"), [("clip-resnet50", True), ("dino_vits16", False), ("udi-micro", False)])
def test_convolutional_backbones_are_recognised(name: str, expected: bool) -> None:
    with torch.device("meta"):
        assert is_convolutional(BACKBONES[name].build()) == expected


def test_the_order_of_channels_in_memory_does_not_change_features() -> None:
    images, configs = pictures(2), [KLConfig(latent_dim=24)]
    expected = wrap("convolutions", configs)(images)
    model = build("convolutions").to(memory_format=torch.channels_last)
    torch.testing.assert_close(wrap("convolutions", configs, model=model)(images), expected, rtol=1e-4, atol=1e-6)
