"""A job with a GPU does not compute on the CPU without a message, and float32 has full precision."""

import pytest
import torch

from fungi.errors import FungiError
from fungi.runtime import device as devices
from fungi.runtime.device import choose_device
from fungi.runtime.precision import full_precision, set_full_precision, tf32_products

GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Simulate a machine without a GPU, restore torch's precision afterwards, and return the folder of device files."""
    for name in GPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "GPU_FILE", tmp_path / "nvidia0")
    monkeypatch.setattr(devices, "DRIVER_FILE", tmp_path / "version")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\nGCC\n")
    with full_precision():
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "value"), [*zip(GPU_VARIABLES, ("0,1", "0", "2"), strict=True), ("CUDA_VISIBLE_DEVICES", "GPU-8932f937")]
)
def test_a_gpu_that_torch_cannot_use_is_refused_unless_the_cpu_is_chosen(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    for device in ("auto", "cuda"):
        with pytest.raises(FungiError, match=r"driver 535\.104\.05.* older CUDA .*--device cpu") as error:
            choose_device(device)
    assert torch.__version__ in str(error.value)
    assert choose_device("cpu").type == "cpu"


def test_a_gpu_of_the_machine_is_refused_unless_it_is_hidden(machine, monkeypatch):
    devices.GPU_FILE.touch()
    with pytest.raises(FungiError, match="nvidia0"):
        choose_device("auto")
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert choose_device("auto").type == "cpu"


def test_without_any_sign_of_a_gpu_the_cpu_is_used(monkeypatch):
    assert choose_device("auto").type == "cpu"
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    assert choose_device("auto").type == "cpu"
    with pytest.raises(FungiError, match="sees no GPU"):
        choose_device("cuda:1")


@pytest.mark.parametrize(("name", "current"), [("cuda:1", [1]), ("cuda", []), ("auto", [])])
def test_a_gpu_with_a_number_becomes_the_current_device(name, current, monkeypatch):
    numbers: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: numbers.append(device.index))
    assert choose_device(name).type == "cuda"
    assert numbers == current


def precision() -> tuple[str, bool]:
    """Return torch's precision of float32 products, and whether convolutions may use TF32."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_a_command_computes_float32_in_full_precision_despite_earlier_settings(monkeypatch, caplog):
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    choose_device("cpu")
    assert precision() == ("highest", False)
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_full_precision()
    assert "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set and has no effect" in caplog.text


def test_tf32_products_are_only_for_gpus_and_end_with_their_with_statement():
    with tf32_products(torch.device("cuda")):
        assert precision() == ("high", True)
        with full_precision():
            assert precision() == ("highest", False)
    with tf32_products(torch.device("cpu")):
        assert precision() == ("highest", False)
    assert precision() == ("highest", False)
