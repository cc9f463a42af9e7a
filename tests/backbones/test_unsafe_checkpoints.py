"""Files that are no checkpoints, or more than that: nothing in them runs, and the message says which and why."""

import pickle
from pathlib import Path

import pytest
import torch

from fungi.backbones.checkpoints import unwrap
from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError, MissingFilesError
from tests.backbones.small import SMALL, random_state, save, vit_shapes


class RunsCode:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_runs_code_is_refused(small, tmp_path, capsys):
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "payload": RunsCode()}, file)
    with pytest.raises(FungiError, match=r"evil\.pth holds more than tensors.*not read"):
        load_backbone(SMALL, checkpoint=file)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    with pytest.raises(FungiError, match=r"raw\.pth .*not read"):
        load_backbone(SMALL, checkpoint=tmp_path / "raw.pth")
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_a_truncated_file_is_said_to_be_damaged(small, tmp_path, file):
    path = save(tmp_path, random_state(vit_shapes()), file)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FungiError, match=f"{file} .*(Fetch it again|no checkpoint at all)"):
        load_backbone(SMALL, checkpoint=path)


def test_a_missing_file_and_a_file_without_weights_are_said(small, tmp_path):
    with pytest.raises(MissingFilesError, match=r"there is no checkpoint .*nowhere\.pth.*--checkpoint"):
        load_backbone(SMALL, checkpoint=tmp_path / "nowhere.pth")
    with pytest.raises(FungiError, match="holds no state dict"):
        load_backbone(SMALL, checkpoint=save(tmp_path, {"epoch": 3}))


def test_checkpoint_and_random_init_exclude_each_other(small, tmp_path):
    with pytest.raises(FungiError, match="--checkpoint and --random-init exclude each other"):
        load_backbone(SMALL, checkpoint=tmp_path / "w.pth", random_init=True)


@pytest.mark.parametrize(
    "state",
    [
        {3: torch.zeros(2)},
        {"weight": torch.zeros(2), None: torch.zeros(2)},
        {"weight": torch.eye(2).to_sparse()},
        {"weight": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)},
        {"weight": torch.zeros(2, dtype=torch.complex64)},
        {"weight": torch.zeros(2, device="meta")},
    ],
    ids=["number", "none", "sparse", "quantised", "complex", "meta"],
)
def test_entries_that_are_no_plain_tensors_under_names_are_refused(state):
    with pytest.raises(FungiError, match=r"weights\.pth: its entry .* is no plain tensor under a name"):
        unwrap({"state_dict": state}, Path("weights.pth"))


def test_a_container_that_holds_itself_is_refused():
    endless: dict[str, object] = {}
    endless["model"] = endless
    with pytest.raises(FungiError, match=r"weights\.pth holds no state dict"):
        unwrap(endless, Path("weights.pth"))
