"""Laws of the stages for texts and sounds: files do not depend on batches, workers, shards or interruptions."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.commands import COMMANDS
from fungi.runtime.log import logger
from tests.data.miniatures import miniatures

extract_gradients, extract_embeddings = COMMANDS["extract-gradients"].main, COMMANDS["extract"].main

# Dataset -> backbone.
CASES = {"trec": "tiny-bert", "speech-commands": "tiny-ssast"}
FILES = ("embeddings/{0}/{1}/{2}.h5", "gradients/{0}/{1}/kl-{2}.h5", "gradients/{0}/{1}/simclr-{2}.h5")
"""Paths of the features below the root; {0} is the dataset, {1} the backbone, {2} the split."""
Stage = Callable[..., Path]


@pytest.fixture(params=CASES, scope="module")
def dataset(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def stage(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Return a function that extracts features of a miniature dataset: `stage(root, *flags)` returns the root."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        miniatures()[dataset].make(data, patch)

    def run(root: Path, *additional_flags: str, command: Callable[[list[str]], int] = extract_gradients) -> Path:
        flags = ["--dataset", dataset, "--backbone", CASES[dataset], "--data-dir", str(data), "--root", str(root)]
        flags += ["--device", "cpu", "--block-size", "2", *additional_flags]
        if command is extract_gradients:
            flags += ["--objective", "kl", "simclr", "--with-embeddings"]
        assert command(flags) == 0
        return root

    logger.disabled = True
    yield run
    logger.disabled = False


@pytest.fixture(scope="module")
def uninterrupted(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root folder with the files of a single, uninterrupted extraction."""
    return stage(tmp_path_factory.mktemp("uninterrupted"))


def assert_same_files(root: Path, expected_root: Path, dataset: str, patterns: tuple[str, ...] = FILES) -> None:
    """Compare the files of both splits in two root folders."""
    for split in ("train", "test"):
        for pattern in patterns:
            name = pattern.format(dataset, CASES[dataset], split)
            with h5py.File(root / name) as file, h5py.File(expected_root / name) as expected:
                assert set(file) == set(expected)
                for key in file:
                    assert_equal_up_to_rounding(file[key][:], expected[key][:], f"{name}:{key}")


def assert_equal_up_to_rounding(values: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Compare direction and norm of each row of a matrix. Vectors, such as labels, have to be equal."""
    if values.ndim == 1:
        np.testing.assert_array_equal(values, expected)
        return
    norms, expected_norms = np.linalg.norm(values, axis=1), np.linalg.norm(expected, axis=1)
    cosine = (values * expected).sum(1) / norms / expected_norms
    ratios = norms / expected_norms
    # Sums over batches with different padding have another order, so rounding in float32 differs. It is largest for
    # views of a text: they are almost equal, so their gradient is a difference of nearly equal numbers.
    assert cosine.min() > 1 - 1e-4, f"{name}: cosine {cosine}"
    assert np.abs(ratios - 1).max() < 5e-3, f"{name}: ratios of norms {ratios}"


@pytest.mark.slow
def test_files_do_not_depend_on_batches(dataset: str, stage: Stage, uninterrupted: Path, tmp_path: Path) -> None:
    assert_same_files(stage(tmp_path, "--batch-size", "1", "--views-per-forward", "1"), uninterrupted, dataset)


@pytest.mark.slow
def test_files_do_not_depend_on_workers(dataset: str, stage: Stage, uninterrupted: Path, tmp_path: Path) -> None:
    assert_same_files(stage(tmp_path, "--num-workers", "1"), uninterrupted, dataset)


@pytest.mark.slow
def test_files_do_not_depend_on_shards_and_interruptions(
    dataset: str, stage: Stage, uninterrupted: Path, tmp_path: Path
) -> None:
    stage(tmp_path, "--shard", "2/2")
    assert not (tmp_path / FILES[0].format(dataset, CASES[dataset], "train")).exists()
    stage(tmp_path)  # extracts the other shard, as after an interruption
    assert_same_files(tmp_path, uninterrupted, dataset)


@pytest.mark.slow
def test_extract_writes_the_same_embeddings_as_extract_gradients(
    dataset: str, stage: Stage, uninterrupted: Path, tmp_path: Path
) -> None:
    assert_same_files(stage(tmp_path, command=extract_embeddings), uninterrupted, dataset, FILES[:1])


@pytest.mark.slow
def test_the_published_profile_gives_other_gradients(
    dataset: str, stage: Stage, uninterrupted: Path, tmp_path: Path
) -> None:
    stage(tmp_path, "--profile", "published")
    name = FILES[2].format(dataset, CASES[dataset], "train")
    with h5py.File(tmp_path / name) as published_file, h5py.File(uninterrupted / name) as clean_file:
        published, clean = published_file["attn_proj"][:], clean_file["attn_proj"][:]
    cosine = (published * clean).sum(1) / np.linalg.norm(published, axis=1) / np.linalg.norm(clean, axis=1)
    assert cosine.min() < 0.99


def test_a_backbone_of_another_modality_is_refused(
    dataset: str, stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", dataset, "--backbone", "digits-vit", "--root", str(tmp_path)]
    assert extract_gradients(flags) == 2
    assert "backbone 'digits-vit' takes vision, dataset" in capsys.readouterr().err


def test_an_objective_without_views_for_the_modality_is_refused(
    dataset: str, stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # `stage` adds objectives only if the command is `extract_gradients` itself. It asserts that the exit status is 0.
    with pytest.raises(AssertionError):
        stage(tmp_path, "--objective", "dino", "--with-embeddings", command=lambda flags: extract_gradients(flags))
    assert "dino: no views of" in capsys.readouterr().err
