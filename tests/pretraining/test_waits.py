"""Pretraining on a GPU: the host never waits for the device, and numbers that are read late stay the same."""

import copy
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeCopyMode, unset_fake_temporarily

from fungi.backbones.checkpoints import read_content
from fungi.pretraining import processes, tokens
from fungi.pretraining.processes import decoding_workers
from fungi.pretraining.udi import learner as learners
from fungi.pretraining.udi import network, optimisation, training
from fungi.pretraining.udi.learner import Learner, NonFiniteError
from fungi.pretraining.udi.pretrain import main
from fungi.views import pixels
from tests.engine.test_devices import CPU, CUDA, WaitRecorder
from tests.pretraining.small import first_batches, image_folder, learner_of, schedule, settings
from tests.pretraining.test_runs import act_in_step, assert_same_weights, log_lines, small_run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Return a fake GPU, whose tensors have no values. The computations of the host are real, without pinned memory."""
    requests_between = network.requests_between

    def with_real_tensors(*arguments: Any) -> Any:
        with unset_fake_temporarily():
            return requests_between(*arguments)

    monkeypatch.setattr(network, "requests_between", with_real_tensors)
    # Half of the samples are kept, with the factor 1.25, because fake factors have no values.
    monkeypatch.setattr(tokens, "kept_rows", lambda factors: (torch.arange(len(factors) // 2), 1.25))
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Tensor, "is_pinned", lambda self: False)
    pixels.channel_statistics.cache_clear()
    yield FakeTensorMode(allow_non_fake_inputs=True)
    pixels.channel_statistics.cache_clear()


def on_gpu(module: nn.Module) -> nn.Module:
    """Return the module on the fake GPU. Fake parameters do not have `module.to`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.data.to(CUDA), requires_grad=parameter.requires_grad)
    return module


def learner_on_gpu(mode: FakeTensorMode, run_settings: Any, monkeypatch: pytest.MonkeyPatch) -> Learner:
    """Return a learner of fake tensors, with a backward pass that only creates empty gradients."""
    learner = learner_of(run_settings)
    with FakeCopyMode(mode):
        networks = copy.deepcopy((learner.student, learner.teacher))
    with mode:
        learner.student, learner.teacher = (on_gpu(module) for module in networks)
        learner.device, learner.parallel = CUDA, learner.student
        learner.centres, learner.halted = learner.centres.to(CUDA), torch.zeros((), device=CUDA)
        learner.optimizer = optimisation.build_optimizer(run_settings.optimizer, learner.student)
        learner.tensors = optimisation.published_tensors(learner.student)

    def create_gradients(loss: Tensor) -> None:
        assert loss.device == CUDA
        for parameter in learner.student.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", create_gradients)
    return learner


@pytest.mark.parametrize("changed", [{}, {"accumulate_steps": 2, "target_mix": "probs", "norm_last_layer": False}])
def test_a_step_never_waits_for_the_device(changed, gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    run_settings = settings(drop_path_rate=0.3, **changed)
    steps, downloads = first_batches(run_settings, 2), []
    learner = learner_on_gpu(gpu, run_settings, monkeypatch)
    monkeypatch.setattr(learners, "download", lambda values: downloads.append(values) or list)
    with gpu:
        learner.launch(steps[0], schedule(0, last_layer_frozen=True))  # fills caches
        with WaitRecorder() as recorder:
            learner.launch(steps[1], schedule(1))
    assert recorder.copies == []
    assert [values.device for values in downloads] == [CUDA, CUDA]  # one tensor per step, which is copied later


def test_a_step_that_reads_its_loss_waits_for_the_device(gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would otherwise pass for a recorder that sees no copies."""
    run_settings = settings()
    (step,) = first_batches(run_settings, 1)
    learner = learner_on_gpu(gpu, run_settings, monkeypatch)
    monkeypatch.setattr(learners, "download", lambda values: values.to(CPU).tolist)
    with gpu, WaitRecorder() as recorder:
        learner.launch(step, schedule(0))
    assert len(recorder.copies) > 0


def test_weights_do_not_change_after_a_step_with_an_infinite_loss() -> None:
    for optimizer in ("adamw", "sgd", "lars"):
        run_settings = settings(optimizer=optimizer)
        learner, steps = learner_of(run_settings), first_batches(run_settings, 3)
        learner.step(steps[0], schedule(0))
        before = copy.deepcopy((learner.student.state_dict(), learner.teacher.state_dict(), learner.centres))
        state = copy.deepcopy(learner.optimizer.state_dict()["state"])
        measurements = [learner.launch(steps[1], schedule(1, temperature=float("nan")))]
        measurements.append(learner.launch(steps[2], schedule(2)))
        for step, measurement in enumerate(measurements, 1):
            with pytest.raises(NonFiniteError, match=f"step {step}: the loss is"):
                measurement.read()
        states = (learner.student.state_dict(), learner.teacher.state_dict())
        for network_state, old_values in zip(states, before[:2], strict=True):
            for name, value in network_state.items():
                assert torch.equal(value, old_values[name]), (optimizer, name)
        assert torch.equal(learner.centres, before[2])
        for index, values in learner.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                assert torch.equal(value, state[index][name]), (optimizer, name)


@pytest.mark.slow
def test_delayed_reading_does_not_change_numbers(tmp_path, monkeypatch) -> None:
    """On a GPU, steps start before the numbers of earlier steps are read. The run is also stopped by a signal."""
    images = image_folder(tmp_path / "images", 13)
    assert main(small_run(tmp_path / "at-once", images)) == 0
    monkeypatch.setattr(training, "steps_ahead", lambda device: 1)
    assert main(small_run(tmp_path / "late", images, save_minutes=0.001)) == 0
    with monkeypatch.context() as patch:
        act_in_step(patch, 0, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit):
            main(small_run(tmp_path / "stopped", images))
    assert read_content(tmp_path / "stopped" / "checkpoint.pth")["fungi"]["step"] == 3
    assert main(small_run(tmp_path / "stopped", images)) == 0
    for name in ("late", "stopped"):
        assert log_lines(tmp_path / name) == log_lines(tmp_path / "at-once")
        assert_same_weights(tmp_path / name, tmp_path / "at-once")


@pytest.mark.parametrize(
    ("environment", "cores", "workers"),
    [
        ({}, 24, 23),
        ({"SLURM_CPUS_PER_TASK": "16"}, 128, 15),
        ({"LOCAL_WORLD_SIZE": "8"}, 64, 7),
        ({"SLURM_CPUS_PER_TASK": "8"}, 1, 1),
    ],
)
def test_the_number_of_workers_follows_the_cores_of_the_process(environment, cores, workers, monkeypatch) -> None:
    for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    assert decoding_workers(-1, CUDA) == workers
    assert (decoding_workers(-1, CPU), decoding_workers(3, CUDA)) == (0, 3)


@pytest.mark.parametrize(("rank", "count", "own"), [("3", 8, 3), ("3", 1, 0), ("5", 4, 1)])
def test_a_process_uses_the_visible_gpu_of_its_local_rank(rank, count, own, monkeypatch) -> None:
    """`srun --gpus-per-task=1` shows each process one GPU, number 0."""
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert processes.own_gpu() == own
