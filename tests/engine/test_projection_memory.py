"""Projections that do not fit into the free memory are refused before they are drawn."""

from pathlib import Path

import pytest
import torch

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.gradients import projection_memory
from fungi.gradients.projection_memory import require_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HGNET_LAYER = (2048, 1025)  # outputs and inputs (with the bias) of the last layer of hgnetv2_b0


def test_the_error_of_a_stage_names_size_and_solution_and_no_matrix_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(projection_memory, "free_bytes", lambda device: 10**6)
    arguments = f"--dataset digits --split test --objective kl --root {tmp_path / 'features'}"
    assert COMMANDS["extract-gradients"].main(arguments.split()) == 2
    error = capfd.readouterr().err
    assert "a binary projection of 96 x 9,312 entries takes 0.0 GB of cpu memory, but 0.0 GB are free." in error
    assert "Use --projection-kind khatri-rao" in error
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("kind", "device", "dtype", "free", "fits"),
    [
        # The matrix has 2,048 x 2,099,200 entries: 17.2 GB in float32, 8.6 GB in bfloat16, 0.5 GB as bits.
        ("binary", CPU, torch.float32, 17.0e9, False),
        ("binary", CPU, torch.float32, 17.8e9, True),
        ("binary", CUDA, torch.bfloat16, 8.7e9, True),
        ("binary", CUDA, torch.bfloat16, 8.5e9, False),
        ("gaussian", CUDA, torch.bfloat16, 17.0e9, False),  # drawn in float32, in the memory of the CPU
        ("khatri-rao", CPU, torch.float32, 0, True),
    ],
)
def test_the_bits_and_the_dense_entries_of_a_matrix_are_counted(
    kind: str, device: torch.device, dtype: torch.dtype, free: float, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection_memory, "free_bytes", lambda device: int(free))
    if fits:
        require_memory(kind, 2048, HGNET_LAYER, device, dtype, "")
        return
    with pytest.raises(FungiError, match=r"projection of 2,048 x 2,099,200 entries takes .* GB .*\. Do this\."):
        require_memory(kind, 2048, HGNET_LAYER, device, dtype, "Do this.")


def test_every_projection_is_accepted_if_the_free_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_memory, "free_bytes", lambda device: None)
    require_memory("binary", 2048, HGNET_LAYER, CPU, torch.float32, "")
