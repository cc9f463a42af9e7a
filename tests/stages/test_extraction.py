"""Laws of the stages: how the work is cut, ordered or interrupted does not show in the files."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.commands import COMMANDS
from tests.stages.conftest import ROWS, Stage, arrays, assert_close_files, assert_same_files

ALL = ("--objective", "kl", "dino", "simclr", "--with-embeddings")


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, made in one plain run."""
    from tests.stages.conftest import QUICK

    root = tmp_path_factory.mktemp("whole")
    where = ("--dataset", "pictures", "--data-dir", str(pictures), "--root", str(root))
    assert COMMANDS["extract-gradients"].main([*where, *QUICK, *ALL]) == 0
    return root


def test_files_have_the_layout_that_plain_readers_expect(whole: Path) -> None:
    for split, rows in ROWS.items():
        with h5py.File(whole / "embeddings" / "pictures" / "digits-vit" / f"{split}.h5") as file:
            assert file["embeddings"].shape == (rows, 96)
            assert file["embeddings"].dtype == np.float32
            assert file["targets"].dtype == np.uint32
            assert file["targets"][:].tolist() == [0] * (rows - rows // 2) + [1] * (rows // 2)
        for objective in ("kl", "dino", "simclr"):
            with h5py.File(whole / "gradients" / "pictures" / "digits-vit" / f"{objective}-{split}.h5") as file:
                assert file["attn_proj"].shape == (rows, 96)
                assert file["attn_proj"].dtype == np.float32


def test_every_file_carries_its_birth(whole: Path) -> None:
    with h5py.File(whole / "gradients" / "pictures" / "digits-vit" / "simclr-train.h5") as file:
        said = dict(file.attrs)
        layer = dict(file["attn_proj"].attrs)
    assert said["schema_version"] == 2
    assert (said["dataset"], said["backbone"], said["split"], said["rows"]) == ("pictures", "digits-vit", "train", 14)
    assert said["feature"] == "simclr"
    assert said["complete"]
    assert len(said["weights_hash"]) == len(said["dataset_fingerprint"]) == len(said["support_hash"]) == 64
    assert json.loads(said["objective_settings"])["negative_samples"] == 5
    assert json.loads(said["settings"])["block_size"] == 4
    assert "torch" in json.loads(said["versions"])
    assert layer["layer"] == "blocks.3.attn.proj"
    assert layer["projection_kind"] == "binary"
    assert len(layer["projection_hash"]) == 64


def test_no_temporary_or_block_is_left(whole: Path) -> None:
    assert not list((whole / "blocks").rglob("*.safetensors"))
    assert not list(whole.rglob("*partial*"))


@pytest.mark.parametrize("objective", ["kl", "dino", "simclr"])
def test_an_objective_alone_gives_the_file_it_gives_among_others(
    whole: Path, gradients: Stage, tmp_path: Path, objective: str
) -> None:
    assert gradients(tmp_path, "--objective", objective, "--split", "test", *_only(objective)) == 0
    made = arrays(tmp_path)
    assert made
    for name, values in made.items():
        assert np.array_equal(values, arrays(whole)[name]), name


@pytest.mark.slow
def test_embeddings_alone_equal_those_made_beside_gradients(whole: Path, embeddings: Stage, tmp_path: Path) -> None:
    assert embeddings(tmp_path) == 0
    for name, values in arrays(tmp_path).items():
        assert np.array_equal(values, arrays(whole)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", ["1", "3", "64"])
def test_files_do_not_depend_on_batch_size(whole: Path, gradients: Stage, tmp_path: Path, batch_size: str) -> None:
    assert gradients(tmp_path, *ALL, "--batch-size", batch_size) == 0
    assert_close_files(tmp_path, whole)


@pytest.mark.slow
def test_files_do_not_depend_on_the_number_of_workers(whole: Path, gradients: Stage, tmp_path: Path) -> None:
    assert gradients(tmp_path, *ALL, "--num-workers", "2") == 0
    assert_same_files(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_files_do_not_depend_on_shards_and_their_order(
    whole: Path, gradients: Stage, tmp_path: Path, order: tuple[int, ...]
) -> None:
    for index in order:
        assert gradients(tmp_path, *ALL, "--shard", f"{index}/3") == 0
    assert_same_files(tmp_path, whole)


@pytest.mark.slow
def test_the_same_shard_twice_does_no_harm(whole: Path, gradients: Stage, tmp_path: Path) -> None:
    for index in (1, 1, 2):
        assert gradients(tmp_path, *ALL, "--shard", f"{index}/2") == 0
    assert_same_files(tmp_path, whole)


def test_a_merge_without_all_blocks_fails_and_says_which(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradients(tmp_path, "--objective", "kl", "--split", "train", "--shard", "1/2", *_only("kl")) == 0
    assert "2 blocks of other shards missing" in capsys.readouterr().out
    assert COMMANDS["merge"].main(["--root", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "kl-train.h5 can't be assembled: 2 of 4 blocks are missing: 1 (rows 4-7), 3 (rows 12-13)" in said
    assert not arrays(tmp_path)


@pytest.mark.slow
def test_a_merge_assembles_what_a_killed_last_shard_left(whole: Path, gradients: Stage, tmp_path: Path) -> None:
    """All blocks are there, but the process died before the assembly."""
    import fungi.extraction.pipeline as extraction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "assemble", lambda blocks, path, **_: None)
        assert gradients(tmp_path, *ALL) == 0
    assert not arrays(tmp_path)
    assert COMMANDS["merge"].main(["--root", str(tmp_path)]) == 0
    assert_same_files(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [("1/2",), ("1/2", "2/2")], ids=["unfinished", "all blocks"])
def test_a_merge_never_replaces_a_file_that_was_made_in_another_way(
    shards: tuple[str, ...], gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks of an earlier run lie there beside a file of other settings."""
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
    said = capsys.readouterr().err
    assert "temperature: 3.0 -> 15.0. " in said
    assert "kl-train.h5 was computed in another way. " in said
    assert ("left its blocks in" if len(shards) == 1 else "Remove the one that you do not need") in said
    assert all(np.array_equal(values, before[name]) for name, values in arrays(tmp_path).items())


def test_a_second_run_keeps_what_is_there_and_says_so(
    whole: Path, gradients: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.h5")}
    assert gradients(whole, *ALL) == 0
    assert capsys.readouterr().out.count("made before in the same way") == len(before)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*.h5")}


def test_a_file_made_in_another_way_is_not_replaced_unless_asked(
    gradients: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--objective", "kl", "--split", "test", *_only("kl"))
    assert gradients(tmp_path, *flags) == 0
    assert gradients(tmp_path, *flags, "--seed", "7") == 2
    said = capsys.readouterr().err
    assert "was computed in another way" in said
    assert "extract_gradients.py: seed: 42 -> 7" in said
    assert "--overwrite" in said
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
    """Settings of absent objectives are refused: give those of this one alone."""
    kept = {"simclr": ("simclr.stride_scale=1", "simclr.negative_samples=5")}
    return ("--set", *kept.get(objective, ()))
