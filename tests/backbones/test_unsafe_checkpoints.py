"""Files that are not checkpoints, or that contain code, are refused. No code runs, and the error names the cause."""

import pickle
from pathlib import Path

import pytest
import torch

from fungi.backbones.checkpoints import unwrap
from fungi.backbones.loading import load_backbone
from fungi.errors import FungiError, MissingFilesError
from tests.backbones.small import SMALL, random_state, save, vit_shapes


class RunsCode:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_pickle_that_runs_code_is_refused(small_backbone, tmp_path, capsys):
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "payload": RunsCode()}, file)
    with pytest.raises(FungiError, match=r"evil\.pth contains more than tensors.*not read"):
        load_backbone(SMALL, checkpoint=file)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    with pytest.raises(FungiError, match=r"raw\.pth .*not read"):
        load_backbone(SMALL, checkpoint=tmp_path / "raw.pth")
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_the_error_for_a_truncated_file_proposes_a_new_download(small_backbone, tmp_path, file):
    path = save(tmp_path, random_state(vit_shapes()), file)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FungiError, match=f"{file} .*Fetch it again"):
        load_backbone(SMALL, checkpoint=path)


def test_missing_files_and_files_without_weights_are_refused(small_backbone, tmp_path):
    with pytest.raises(MissingFilesError, match=r"there is no checkpoint .*nowhere\.pth.*--checkpoint"):
        load_backbone(SMALL, checkpoint=tmp_path / "nowhere.pth")
    with pytest.raises(FungiError, match="has no state dict"):
        load_backbone(SMALL, checkpoint=save(tmp_path, {"epoch": 3}))


def test_checkpoint_and_random_init_exclude_each_other(small_backbone, tmp_path):
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
def test_entries_other_than_ordinary_tensors_with_names_are_refused(state):
    with pytest.raises(FungiError, match=r"weights\.pth: its entry .* is not an ordinary tensor with a name"):
        unwrap({"state_dict": state}, Path("weights.pth"))


def test_a_container_that_contains_itself_is_refused():
    container: dict[str, object] = {}
    container["model"] = container
    with pytest.raises(FungiError, match=r"weights\.pth has no state dict"):
        unwrap(container, Path("weights.pth"))


# Kind of file -> its content, and a part of the error message.
OTHER_FILES = {
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "pointer of git-LFS.*git lfs pull",
    ),
    "page": (
        b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "is a web page or XML: the download returned a page",
    ),
    "gzip": (b"\x1f\x8b\x08rest", "compressed with gzip. Unpack it"),
    "gguf": (b"GGUF\x03rest", "GGUF file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5 file"),
    "empty": (b"", "is empty"),
    "text": (b"weights go here", "not a (complete|checkpoint)"),
}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_the_error_for_a_file_of_another_kind_names_its_kind(kind, ending, small_backbone, tmp_path):
    content, message = OTHER_FILES[kind]
    (tmp_path / f"w.{ending}").write_bytes(content)
    with pytest.raises(FungiError, match=rf"w\.{ending} .*{message}") as error:
        load_backbone(SMALL, checkpoint=tmp_path / f"w.{ending}")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("saved_name", "final_name"), [("w.safetensors", "w.pth"), ("w.pth", "w.safetensors")])
def test_the_content_of_a_file_and_not_its_name_determines_its_format(saved_name, final_name, small_backbone, tmp_path):
    state = random_state(vit_shapes())
    save(tmp_path, state, saved_name).rename(tmp_path / final_name)
    weights = load_backbone(SMALL, checkpoint=tmp_path / final_name).model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_integer_weights_are_refused(dtype, small_backbone, tmp_path):
    state = random_state(vit_shapes())
    state["blocks.0.attn.proj.weight"] = state["blocks.0.attn.proj.weight"].to(dtype)
    with pytest.raises(FungiError, match=r"of another kind \(blocks\.0\.attn\.proj\.weight is \w+ instead of floating"):
        load_backbone(SMALL, checkpoint=save(tmp_path, state))


def test_weights_in_half_precision_are_accepted(small_backbone, tmp_path):
    state = random_state(vit_shapes())
    state_in_half_precision = {name: tensor.bfloat16() for name, tensor in state.items()}
    weights = load_backbone(SMALL, checkpoint=save(tmp_path, state_in_half_precision)).model.state_dict()
    assert all(torch.equal(weights[name], tensor.float()) for name, tensor in state_in_half_precision.items())
