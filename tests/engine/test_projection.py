"""Laws of projection matrices: inner products, seeds, files and precision."""

from pathlib import Path

import pytest
import torch

from fungi.errors import FungiError, MissingFilesError
from fungi.gradients.projection import (
    KINDS,
    DenseProjector,
    draw_projection,
    from_entries,
    load_projection,
    save_projection,
)

CPU = torch.device("cpu")


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "khatri-rao"])
def test_a_projection_preserves_inner_products(kind: str) -> None:
    """Allow errors of five standard deviations. `<Rx, Ry>/p` has the mean `<x, y>`, and a standard deviation of at most
    `sqrt(2/p) |x| |y|`.
    """
    size, width = 2048, 500
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(12, width, generator=generator), dim=1)
    projected = DenseProjector(draw_projection(size, width, kind=kind), CPU, torch.float32).project(vectors)
    error = (projected @ projected.T - vectors @ vectors.T).abs()
    assert error.max() < 5 * (2 / size) ** 0.5


def test_a_binary_matrix_is_drawn_as_in_the_published_code() -> None:
    torch.manual_seed(42)
    published = torch.where(torch.rand(37, 301) > 0.5, 1.0, -1.0)
    assert torch.equal(draw_projection(37, 301, seed=42).dense(), published)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_equal_if_and_only_if_their_seeds_are_equal(kind: str) -> None:
    matrix, same_seed, other_seed = (draw_projection(33, 50, kind=kind, seed=seed, outputs=5) for seed in (1, 1, 2))
    assert matrix.hash == same_seed.hash
    assert matrix.hash != other_seed.hash
    assert torch.equal(matrix.dense(), same_seed.dense())


def test_sparse_entries_have_the_stated_probabilities() -> None:
    entries = draw_projection(400, 500, kind="sparse").dense()
    share = float((entries != 0).float().mean())
    assert abs(share - 1 / 3) < 5 * (2 / 9 / entries.numel()) ** 0.5  # five standard deviations of the share
    torch.testing.assert_close(entries.unique(), torch.tensor([-1.0, 0.0, 1.0]) * 3**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_matrix_equals_the_saved_matrix(kind: str, tmp_path: Path) -> None:
    matrix = draw_projection(5, 19, kind=kind, outputs=1)
    save_projection(matrix, tmp_path / "m.pth")
    loaded_matrix = load_projection(tmp_path / "m.pth")
    assert (loaded_matrix.kind, loaded_matrix.seed, loaded_matrix.hash) == (kind, 42, matrix.hash)
    assert torch.equal(loaded_matrix.dense(), matrix.dense())


def test_a_binary_matrix_takes_a_bit_per_entry_on_disk(tmp_path: Path) -> None:
    save_projection(draw_projection(64, 80000), tmp_path / "m.pth")
    assert (tmp_path / "m.pth").stat().st_size < 1.02 * 64 * 80000 / 8


def test_a_matrix_of_the_published_code_can_be_read(tmp_path: Path) -> None:
    signs = torch.rand(6, 11) > 0.5
    torch.save({"projection": signs.float() * 2 - 1, "scaling": 6**-0.5}, tmp_path / "m.pth")
    assert torch.equal(load_projection(tmp_path / "m.pth").dense(), from_entries(signs).dense())


def test_errors_name_files_that_are_missing_or_damaged_or_have_no_matrix(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"no projection matrix at .*m\.pth\. Write one with fungi projection"):
        load_projection(tmp_path / "m.pth")
    (tmp_path / "m.pth").write_bytes(b"not a matrix")
    with pytest.raises(FungiError, match="can't be read as a projection matrix"):
        load_projection(tmp_path / "m.pth")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(FungiError, match="is not a projection matrix of format"):
        load_projection(tmp_path / "m.pth")
    matrix = draw_projection(4, 9)
    save_projection(matrix, tmp_path / "m.pth")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    content["packed"][0, 0] ^= 1
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(FungiError, match="is damaged"):
        load_projection(tmp_path / "m.pth")


def test_unknown_kinds_and_empty_sizes_are_refused() -> None:
    with pytest.raises(FungiError, match="kind 'ternary' is not known"):
        draw_projection(2, 2, kind="ternary")
    with pytest.raises(FungiError, match="0 x 2 has no entries"):
        draw_projection(0, 2)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_projection_in_bfloat16_keeps_the_direction_at_every_scale(scale: float) -> None:
    gradients = torch.randn(4, 600, generator=torch.Generator().manual_seed(0)) * scale
    matrix = draw_projection(256, 600)
    in_bfloat16, in_float32 = (
        DenseProjector(matrix, CPU, dtype).project(gradients) / scale for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.nn.functional.cosine_similarity(in_bfloat16, in_float32).min() > 0.9999
    torch.testing.assert_close(in_bfloat16.norm(dim=1), in_float32.norm(dim=1), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "unknown"},
        {"kind": 3},
        {"seed": "42"},
        {"projection_dim": 5},
        {"projection_dim": 4.0},
        {"projection_dim": -4},
        {"projection_dim": True},
        {"gradient_dim": 10**12},
        {"gradient_dim": 0},
        {"packed": [1, 2]},
        {"packed": torch.zeros(4, 2)},
        {"packed": torch.zeros(3, 2, dtype=torch.uint8)},
        {"kind": "gaussian"},
        {"kind": "gaussian", "packed": torch.full((4, 9), torch.nan)},
        {"kind": "khatri-rao", "outputs": 0},
        {"kind": "khatri-rao", "outputs": 2},
    ],
    ids=str,
)
def test_a_file_with_invalid_fields_is_refused(fields: dict[str, object], tmp_path: Path) -> None:
    save_projection(draw_projection(4, 9), tmp_path / "m.pth")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    torch.save({**content, **fields}, tmp_path / "m.pth")
    with pytest.raises(FungiError, match="its entries do not have the stated kind and size"):
        load_projection(tmp_path / "m.pth")


def test_a_file_without_an_entry_is_refused(tmp_path: Path) -> None:
    save_projection(draw_projection(4, 9), tmp_path / "m.pth")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    del content["outputs"]
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(FungiError, match=r"is not a projection matrix of format .* Write a new matrix"):
        load_projection(tmp_path / "m.pth")


@pytest.mark.parametrize("entries", [torch.zeros(4, 9), torch.full((4, 9), torch.inf), torch.eye(4, 9) * torch.nan])
def test_a_matrix_of_the_published_code_without_information_is_refused(entries: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"projection": entries, "scaling": 0.5}, tmp_path / "m.pth")
    with pytest.raises(FungiError, match="has rows of zeros, or is not finite"):
        load_projection(tmp_path / "m.pth")
