"""Files of the stages do not depend on batches, workers, shards, their order, or interruptions."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.commands import COMMANDS
from tests.stages.conftest import ROWS, Stage, arrays, assert_close_files, assert_same_files

ALL = ("--objective", "kl", "dino", "simclr", "--with-embeddings")


@pytest.fixture(scope="module")
def one_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract all features in one run, and return the root."""
    from tests.stages.conftest import QUICK

    root = tmp_path_factory.mktemp("one-run")
    where = ("--dataset", "pictures", "--data-dir", str(pictures), "--root", str(root))
    assert COMMANDS["extract-gradients"].main([*where, *QUICK, *ALL]) == 0
    return root


def test_files_have_the_documented_layout(one_run: Path) -> None:
    for split, rows in ROWS.items():
        with h5py.File(one_run / "embeddings" / "pictures" / "digits-vit" / f"{split}.h5") as file:
            assert file["embeddings"].shape == (rows, 96)
            assert file["embeddings"].dtype == np.float32
            assert file["targets"].dtype == np.uint32
            assert file["targets"][:].tolist() == [0] * (rows - rows // 2) + [1] * (rows // 2)
        for objective in ("kl", "dino", "simclr"):
            with h5py.File(one_run / "gradients" / "pictures" / "digits-vit" / f"{objective}-{split}.h5") as file:
                assert file["attn_proj"].shape == (rows, 96)
                assert file["attn_proj"].dtype == np.float32


def test_every_file_records_its_provenance(one_run: Path) -> None:
    with h5py.File(one_run / "gradients" / "pictures" / "digits-vit" / "simclr-train.h5") as file:
        attributes = dict(file.attrs)
        layer = dict(file["attn_proj"].attrs)
    assert attributes["schema_version"] == 2
    assert (attributes["dataset"], attributes["backbone"]) == ("pictures", "digits-vit")
    assert (attributes["split"], attributes["rows"], attributes["feature"]) == ("train", 14, "simclr")
    assert attributes["complete"]
    for name in ("weights_hash", "dataset_fingerprint", "support_hash"):
        assert len(attributes[name]) == 64
    assert json.loads(attributes["objective_settings"])["negative_samples"] == 5
    assert json.loads(attributes["settings"])["block_size"] == 4
    assert "torch" in json.loads(attributes["versions"])
    assert layer["layer"] == "blocks.3.attn.proj"
    assert layer["projection_kind"] == "binary"
    assert len(layer["projection_hash"]) == 64


def test_a_finished_run_leaves_no_blocks_or_temporary_files(one_run: Path) -> None:
    assert not list((one_run / "blocks").rglob("*.safetensors"))
    assert not list(one_run.rglob("*partial*"))


@pytest.mark.parametrize("objective", ["kl", "dino", "simclr"])
def test_an_objective_writes_the_same_file_alone_and_with_others(
    one_run: Path, gradients: Stage, tmp_path: Path, objective: str
) -> None:
    assert gradients(tmp_path, "--objective", objective, "--split", "test", *_only(objective)) == 0
    by_name = arrays(tmp_path)
    assert by_name
    for name, values in by_name.items():
        assert np.array_equal(values, arrays(one_run)[name]), name


@pytest.mark.slow
def test_embeddings_are_the_same_with_and_without_gradients(one_run: Path, embeddings: Stage, tmp_path: Path) -> None:
    assert embeddings(tmp_path) == 0
    for name, values in arrays(tmp_path).items():
        assert np.array_equal(values, arrays(one_run)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", ["1", "3", "64"])
def test_files_do_not_depend_on_batch_size(one_run: Path, gradients: Stage, tmp_path: Path, batch_size: str) -> None:
    assert gradients(tmp_path, *ALL, "--batch-size", batch_size) == 0
    assert_close_files(tmp_path, one_run)


@pytest.mark.slow
def test_files_do_not_depend_on_the_number_of_workers(one_run: Path, gradients: Stage, tmp_path: Path) -> None:
    assert gradients(tmp_path, *ALL, "--num-workers", "2") == 0
    assert_same_files(tmp_path, one_run)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_files_do_not_depend_on_shards_and_their_order(
    one_run: Path, gradients: Stage, tmp_path: Path, order: tuple[int, ...]
) -> None:
    for index in order:
        assert gradients(tmp_path, *ALL, "--shard", f"{index}/3") == 0
    assert_same_files(tmp_path, one_run)


@pytest.mark.slow
def test_a_shard_can_run_twice(one_run: Path, gradients: Stage, tmp_path: Path) -> None:
    for index in (1, 1, 2):
        assert gradients(tmp_path, *ALL, "--shard", f"{index}/2") == 0
    assert_same_files(tmp_path, one_run)


def test_a_merge_without_all_blocks_fails_and_names_the_missing_blocks(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradients(tmp_path, "--objective", "kl", "--split", "train", "--shard", "1/2", *_only("kl")) == 0
    assert "2 blocks of other shards missing" in capsys.readouterr().out
    assert COMMANDS["merge"].main(["--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "kl-train.h5 can't be assembled: 2 of 4 blocks are missing: 1 (rows 4-7), 3 (rows 12-13)" in error
    assert not arrays(tmp_path)


@pytest.mark.slow
def test_a_merge_assembles_the_blocks_of_a_killed_run(one_run: Path, gradients: Stage, tmp_path: Path) -> None:
    """The run wrote all blocks, but was killed before the assembly."""
    import fungi.extraction.pipeline as extraction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "assemble", lambda blocks, path, **_: None)
        assert gradients(tmp_path, *ALL) == 0
    assert not arrays(tmp_path)
    assert COMMANDS["merge"].main(["--root", str(tmp_path)]) == 0
    assert_same_files(tmp_path, one_run)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [("1/2",), ("1/2", "2/2")], ids=["unfinished", "all blocks"])
def test_a_merge_never_replaces_a_file_with_other_settings(
    shards: tuple[str, ...], gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks of an earlier run exist beside a file of other settings."""
    import fungi.extraction.pipeline as extraction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "assemble", lambda blocks, path, **_: None)
        for shard in shards:
            assert gradients(tmp_path, "--objective", "kl", "--split", "train", "--shard", shard, *_only("kl")) == 0
    other = ("--set", "kl.temperature=3", "--block-size", "4", "--overwrite")
    assert gradients(tmp_path, "--objective", "kl", "--split", "train", *other) == 0
    before = arrays(tmp_path)
    capsys.readouterr()
    assert COMMANDS["merge"].main(["--root", str(tmp_path)]) == (0 if len(shards) == 1 else 2)
    error = capsys.readouterr().err
    assert "temperature: 3.0 -> 15.0. " in error
    assert "kl-train.h5 was computed in another way. " in error
    assert ("left its blocks in" if len(shards) == 1 else "Remove the one that you do not need") in error
    assert all(np.array_equal(values, before[name]) for name, values in arrays(tmp_path).items())


def test_a_second_run_keeps_the_files_and_prints_that_it_keeps_them(
    one_run: Path, gradients: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in one_run.rglob("*.h5")}
    assert gradients(one_run, *ALL) == 0
    assert capsys.readouterr().out.count("already computed in the same way") == len(before)
    assert before == {path: path.stat().st_mtime_ns for path in one_run.rglob("*.h5")}


def test_a_file_with_other_settings_is_replaced_only_on_request(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--objective", "kl", "--split", "test", *_only("kl"))
    assert gradients(tmp_path, *flags) == 0
    assert gradients(tmp_path, *flags, "--seed", "7") == 2
    error = capsys.readouterr().err
    assert "was computed in another way" in error
    assert "extract_gradients.py: seed: 42 -> 7" in error
    assert "--overwrite" in error
    before = arrays(tmp_path)
    assert gradients(tmp_path, *flags, "--seed", "7", "--overwrite") == 0
    assert not np.array_equal(next(iter(arrays(tmp_path).values())), next(iter(before.values())))


def test_a_damaged_block_is_named(gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--objective", "kl", "--split", "train", *_only("kl"))
    assert gradients(tmp_path, *flags, "--shard", "1/2") == 0
    block = min((tmp_path / "blocks").rglob("*.safetensors"))
    block.write_bytes(block.read_bytes()[:-100])
    assert gradients(tmp_path, *flags, "--shard", "2/2") == 2
    assert f"block {block} can't be used" in capsys.readouterr().err


def _only(objective: str) -> tuple[str, ...]:
    """Return `--set` with options of this objective only, because options of absent objectives are refused."""
    options = {"simclr": ("simclr.stride_scale=1", "simclr.negative_samples=5")}
    return ("--set", *options.get(objective, ()))
