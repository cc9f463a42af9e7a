"""Compiled encoders: equal features, few programs, and the choice whether to compile."""

import importlib
import os
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from fungi.backbones.encoders import WholeModel, blocks_before
from fungi.backbones.pooled_token import PooledTokenEncoder
from fungi.extraction import pipeline
from fungi.extraction.context import resolve_context
from fungi.extraction.features import gradient_features
from fungi.extraction.gradient_settings import GradientSettings
from fungi.gradients.engine import GradientEngine
from fungi.gradients.targets import find_targets
from fungi.objectives.binding import bind
from fungi.views.image import ImageInput
from fungi.views.loading import batch_of_images
from tests.library.models import build, pictures

IMAGES = ImageInput(size=32, resize=36)
LAYER = "blocks.1.attn.proj"


def gradients(engine: GradientEngine) -> torch.Tensor:
    """Return the DINO gradients of three pictures."""
    bound = bind("dino", embedding_dim=24, input_spec=IMAGES, seed=0)
    batch = batch_of_images(pictures(3), [bound.views], seed=0)[bound.views.identity]
    return engine.extract(batch, bound.views, {"dino": bound.loss}).gradients["dino"]["proj"]


def engine_of(short_cut: bool) -> GradientEngine:
    """Return an engine with a small model. short_cut: compute the last block only for the pooled token."""
    model = build("timm").eval()
    return GradientEngine(
        model, find_targets(model, (f"{LAYER}:proj",)), device=torch.device("cpu"), short_cut=short_cut
    )


@pytest.mark.parametrize(
    ("short_cut", "backend"),
    [(True, "eager"), (False, "eager"), pytest.param(True, "inductor", marks=pytest.mark.slow)],
)
def test_compiled_features_equal_uncompiled_features(
    short_cut: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks of axes cannot be compiled
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    if backend == "inductor":  # without vector instructions, which take the C++ compiler four times as long
        inductor = importlib.import_module("torch._inductor.config")
        monkeypatch.setattr(inductor.cpp, "vec_isa_ok", False)
        monkeypatch.setattr(inductor, "compile_threads", 1)
    expected = gradients(engine_of(short_cut))
    engine = engine_of(short_cut)
    assert isinstance(engine.encoder, PooledTokenEncoder if short_cut else WholeModel)
    torch._dynamo.reset()
    counters.clear()
    engine.compile()
    compiled = gradients(engine)
    assert counters["stats"]["unique_graphs"] >= 1
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("short_cut", "max_programs"), [(True, 1), (False, 2)])
def test_blocks_and_groups_of_all_sizes_share_compiled_programs(
    short_cut: bool, max_programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the compiled programs, each of which takes a minute to compile."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks of axes cannot be compiled
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=counter))
    torch._dynamo.reset()
    engine = engine_of(short_cut)
    engine.compile()
    plain = IMAGES.views("plain")
    for count in (4, 7, 2, 5):
        engine.embed(batch_of_images(pictures(count), [plain], seed=0)[plain.identity], plain)
    assert 1 <= counter.frame_count <= max_programs


def test_settings_and_dataset_but_not_the_shard_decide_whether_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GradientSettings(dataset="digits", backbone="digits-vit", objective=("kl", "dino"), root=tmp_path)
    context = resolve_context(settings)
    features = gradient_features(settings, context)
    on_gpu = replace(context, device=torch.device("cuda"))
    forwards = 1797 * (1 + 12)  # for all rows of both splits: one view of KL, and twelve views of DINO
    for threshold, expected in ((forwards, True), (forwards + 1, False)):
        monkeypatch.setattr(pipeline, "COMPILED_FROM", threshold)
        for shard in ("1/1", "3/8"):
            assert (
                pipeline.should_compile(replace(on_gpu, settings=replace(settings, shard=shard)), features) is expected
            )
        assert not pipeline.should_compile(context, features), "a CPU compiles only on request"
        for choice in ("on", "off"):
            explicit = replace(settings, compile=choice)
            for context_of_device in (context, on_gpu):
                should_compile = pipeline.should_compile(replace(context_of_device, settings=explicit), features)
                assert should_compile is (choice == "on")


def test_a_missing_c_compiler_gives_a_warning_and_uncompiled_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GradientSettings(dataset="digits", backbone="digits-vit", objective=("kl",), root=tmp_path)
    context = resolve_context(settings)
    features = gradient_features(settings, context)
    warnings: list[str] = []
    monkeypatch.setattr(pipeline.logger, "warning", warnings.append)
    monkeypatch.setattr(
        GradientEngine, "compile", lambda engine: pytest.fail("the engine was compiled without a compiler")
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    pipeline._compile(context, features)
    (warning,) = warnings
    assert warning.startswith("not compiled: there is no C compiler here")


@pytest.mark.parametrize(("device", "user_folder"), [("cuda", None), ("cuda", "folder of the user"), ("cpu", None)])
def test_processes_on_gpus_of_the_same_model_share_compiled_code(
    device: str, user_folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GradientSettings(dataset="digits", backbone="digits-vit", objective=("kl",), root=tmp_path, compile="on")
    context = resolve_context(settings)
    features = gradient_features(settings, context)
    monkeypatch.setattr(GradientEngine, "compile", lambda engine: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", user_folder or "")  # also restores the variable after the test
    if user_folder is None:
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    pipeline._compile(replace(context, device=torch.device(device)), features)
    shared_folder = str(tmp_path.resolve() / "compiled" / "NVIDIA-H200") if device == "cuda" else None
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == (user_folder or shared_folder)


def test_groups_of_a_batch_have_nearly_equal_sizes() -> None:
    engine = engine_of(short_cut=True)
    engine.views_per_forward = 48  # four samples of twelve crops
    bound = bind("dino", embedding_dim=24, input_spec=IMAGES, seed=0)
    batch = batch_of_images(pictures(9), [bound.views], seed=0)[bound.views.identity]
    sizes = [len(rows) for rows, _ in engine._groups(batch, bound.views)]
    assert sizes == [3, 3, 3]  # groups of the allowed size would be 4, 4 and 1


def test_blocks_before_the_first_source_belong_to_the_longest_list_of_modules() -> None:
    model = nn.ModuleDict({"stem": nn.Sequential(nn.ReLU()), "layer": nn.ModuleList(nn.Linear(2, 2) for _ in range(4))})
    assert blocks_before(model, ["layer.3", "layer.2"]) == list(model["layer"])[:2]
    assert blocks_before(model, []) == list(model["layer"])
    assert blocks_before(model, ["layer.3", "stem.0"]) == []
    assert blocks_before(nn.Linear(2, 2), [""]) == []
