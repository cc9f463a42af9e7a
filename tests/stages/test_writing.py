"""Writing blocks: the copy to the host follows each block at once, and the file records what computed it."""

import json
import sys
from collections import Counter, defaultdict

import h5py
import pytest
import torch

from fungi.extraction import pipeline, writing
from fungi.runtime.log import size_in_words
from fungi.store.blocks import BlockFolder
from tests.stages.conftest import arrays
from tests.store.blocks import VALUES, create_blocks, fill


def test_the_copy_of_a_block_is_queued_before_the_next_block_is_computed(embeddings, tmp_path, monkeypatch):
    """A device works through its queue in order, so a copy that is queued later waits for all earlier blocks."""
    queue: list[str] = []
    compute, start_copy = pipeline.core.compute, pipeline.start_copy

    def record_and_compute(*arguments):
        queue.append("compute")
        return compute(*arguments)

    def record_and_copy(*arguments):
        queue.append("copy")
        return start_copy(*arguments)

    monkeypatch.setattr(pipeline.core, "compute", record_and_compute)
    monkeypatch.setattr(pipeline, "start_copy", record_and_copy)
    assert embeddings(tmp_path, "--split", "train", "--batch-size", "2") == 0
    assert queue == [*["compute"] * 2, "copy"] * 3 + ["compute", "copy"]  # 14 rows: blocks of 4, batches of 2


def test_a_copy_to_the_host_waits_only_for_its_own_event(monkeypatch):
    waits: list[str] = []

    class Event:
        def synchronize(self) -> None:
            waits.append("event")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: waits.append("device"))
    rows = {"kl": {"attn": torch.ones(2, 3)}}
    assert writing.HostBlock(rows, Event()).wait() is rows
    assert writing.start_copy([rows, rows], torch.device("cpu")).wait()["kl"]["attn"].shape == (4, 3)
    assert waits == ["event"]


def test_different_devices_are_recorded_and_logged(tmp_path, caplog, monkeypatch):
    blocks, path = create_blocks(tmp_path)
    for span, device in zip(blocks.missing(), ("NVIDIA A100", "NVIDIA H100, compiled"), strict=False):
        blocks.write(span, {"attn": VALUES[span.start : span.stop]}, computed_on=device)
    fill(blocks)
    pipeline.assemble(blocks, path)
    with h5py.File(path) as file:
        assert json.loads(file.attrs["computed_on"]) == ["NVIDIA A100", "NVIDIA H100, compiled"]
    assert "were computed on NVIDIA A100; NVIDIA H100, compiled, which round differently" in caplog.text


def test_a_run_on_a_cpu_records_the_cpu(embeddings, tmp_path, monkeypatch):
    if "torch._dynamo.utils" in sys.modules:  # an earlier test of this process has compiled code
        monkeypatch.setattr("torch._dynamo.utils.counters", defaultdict(Counter))
    assert embeddings(tmp_path, "--split", "test") == 0
    with h5py.File(next((tmp_path / "embeddings").rglob("test.h5"))) as file:
        assert json.loads(file.attrs["computed_on"]) == ["cpu"]


@pytest.mark.parametrize("kind", ["binary", "none"])
def test_the_logged_size_of_the_features_is_the_size_of_the_written_arrays(kind, gradients, tmp_path, capfd):
    """With the kind `none`, gradients are not projected, so a row has as many numbers as the weight of the layer."""
    flags = ("--objective", "kl", "--set", "--split", "test", "--projection-kind", kind)
    assert gradients(tmp_path, *flags) == 0
    written_bytes = sum(values.nbytes for values in arrays(tmp_path).values())
    assert f"{size_in_words(written_bytes)} of features" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["binary", "sparse"])
def test_a_projection_file_with_the_name_of_another_seed_is_refused(kind, gradients, tmp_path, capsys):
    flags = ("--objective", "kl", "--set", "--split", "test", "--projection-kind", kind)
    assert gradients(tmp_path, *flags) == 0
    (matrix,) = (tmp_path / "projections").glob("*.pth")
    matrix.rename(matrix.with_name(matrix.name.replace("seed42", "seed7")))
    assert gradients(tmp_path / "other", *flags, "--seed", "7") == 0  # another root has another matrix
    assert gradients(tmp_path, *flags, "--seed", "7") == 2
    assert f"holds another matrix than its name says: {kind} with seed 42" in capsys.readouterr().err


def test_blocks_record_the_version_of_the_program(tmp_path):
    blocks, _ = create_blocks(tmp_path)
    fill(blocks)
    version, device = BlockFolder.open(blocks.folder).origin(blocks.manifest.spans()[0])
    assert (version.code != "unknown", device) == (True, "")


def test_orphans_beside_supporting_data_are_removed_although_the_data_exist(gradients, tmp_path):
    """A kill after the final name is linked and before the temporary name is removed leaves such an orphan."""
    flags = ("--objective", "deepcluster", "--split", "train", "--set", "deepcluster.prototypes=4")
    assert gradients(tmp_path, *flags) == 0
    (support,) = (tmp_path / "support").rglob("*.safetensors")
    orphan = support.with_name(f".{support.name}.removed-0123456789ab")
    orphan.touch()
    assert gradients(tmp_path, *flags) == 0
    assert list(support.parent.iterdir()) == [support]


def test_orphans_beside_a_finished_file_are_removed(embeddings, tmp_path):
    """The first run was killed while it wrote the file, and the second run after it had written the file."""
    assert embeddings(tmp_path, "--split", "train") == 0
    (file,) = (tmp_path / "embeddings").rglob("*.h5")
    orphan = file.with_name(f".{file.name}.removed-0123456789ab")
    orphan.touch()
    assert embeddings(tmp_path, "--split", "train") == 0
    assert list(file.parent.iterdir()) == [file]
