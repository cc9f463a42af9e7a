"""Stratified samples of tokens, and maps between views (spec udi 2, and tests 1 and 2 of section 9.4)."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from fungi.pretraining.udi.sampling import (
    masked_mean,
    one_hot_map,
    stratified_tokens,
    strictly_inside,
    target_map,
    token_positions,
    units_per_pixel,
)


def windows_of(tokens: np.ndarray, side: int, window: int, top: int, left: int) -> set[tuple[int, int]]:
    """Return the windows with tokens, if the square of windows starts at row `top` and column `left`."""
    rows, columns = tokens // side, tokens % side
    return {((row - top) // window, (column - left) // window) for row, column in zip(rows, columns, strict=True)}


@pytest.mark.parametrize(("side", "window"), [(14, 3), (6, 2), (8, 2), (5, 5), (7, 1), (1, 1)])
def test_a_square_in_a_corner_has_one_sample_in_each_of_its_windows(side: int, window: int) -> None:
    count, unambiguous_corners = side // window, set()
    margin = side - count * window
    all_windows = {(row, column) for row in range(count) for column in range(count)}
    for seed in range(40):
        tokens = stratified_tokens(np.random.default_rng(seed), side, window)
        corners = [
            (top, left)
            for top in {0, margin}
            for left in {0, margin}
            if windows_of(tokens, side, window, top, left) == all_windows
        ]
        assert len(tokens) == count**2 == len(set(tokens.tolist()))
        assert corners, (tokens, "the square is not in a corner")
        if len(corners) == 1:
            unambiguous_corners.update(corners)
    if margin:
        assert len(unambiguous_corners) == 4


def test_every_token_can_be_drawn() -> None:
    tokens = {
        token
        for seed in range(200)
        for token in stratified_tokens(np.random.default_rng(seed), side=4, window=2).tolist()
    }
    assert tokens == set(range(16))


def positions(tokens: torch.Tensor, side: int, box: torch.Tensor, coordinates="corner") -> torch.Tensor:
    """Return the positions of tokens in pixels."""
    units = units_per_pixel([side], coordinates)
    return token_positions(tokens, side, box, units, coordinates) / units


def test_positions_lie_between_the_corners_of_the_crop() -> None:
    box = torch.tensor([[20, 90, 50, 60]])  # flipped: the first column is 90, the last is 60
    tokens = torch.tensor([[0, 3, 12, 15]])
    expected = torch.tensor([[[20.0, 90], [20, 60], [50, 90], [50, 60]]])
    assert torch.equal(positions(tokens, 4, box), expected)
    assert positions(tokens, 4, box, "center")[0, 0].tolist() == [23.75, 86.25]


def test_between_equal_boxes_the_target_map_of_inner_tokens_is_the_source_map() -> None:
    box, tokens = torch.tensor([[10, 20, 70, 90]]), torch.arange(36)[None]
    positions_in_image = token_positions(tokens, side=6, box=box, units=5)
    inner = [token for token in range(36) if 0 < token // 6 < 5 and 0 < token % 6 < 5]
    inside = strictly_inside(positions_in_image, box, units=5)
    assert inside[0].nonzero().flatten().tolist() == inner  # a token on the edge is not inside
    target = target_map(positions_in_image, box, side=6, units=5)
    torch.testing.assert_close(target[0, inner], one_hot_map(tokens, count=36)[0, inner], atol=1e-7, rtol=0)


def test_a_mirrored_target_has_the_mirrored_column() -> None:
    source, mirrored = torch.tensor([[10, 20, 70, 90]]), torch.tensor([[10, 90, 70, 20]])
    cells = [(1, 1), (1, 3), (4, 4)]
    tokens = torch.tensor([[6 * row + column for row, column in cells]])
    positions_in_image = token_positions(tokens, side=6, box=source, units=5)
    target = target_map(positions_in_image, mirrored, side=6, units=5)
    assert target.argmax(-1).tolist() == [[6 * row + 5 - column for row, column in cells]]


@pytest.mark.parametrize("coordinates", ["corner", "center"])
def test_maps_equal_exact_fractions(coordinates) -> None:
    """Crops are chosen so that tokens lie on edges of the other crop, where rounding decides about the side."""
    random, sides, size = np.random.default_rng(0), (6, 4), (97, 131)
    units = units_per_pixel(sides, coordinates)
    steps = 3 if coordinates == "corner" else 8  # equal steps along a crop at which the tokens of 4 x 4 lie
    rounding_errors = 0
    for _ in range(40):
        starts, extents = random.integers(0, 30, 2).tolist(), random.integers(1, 8, 2).tolist()
        lattice = [
            [start + step * extent for step in range(steps + 1)] for start, extent in zip(starts, extents, strict=True)
        ]
        first, second = (sorted(random.choice(steps + 1, 2, replace=False).tolist()) for _ in range(2))
        crops = [
            [lattice[0][0], lattice[1][0], lattice[0][-1], lattice[1][-1]],
            [lattice[0][first[0]], lattice[1][second[0]], lattice[0][first[1]], lattice[1][second[1]]],
        ]
        if random.random() < 0.5:
            crops[0] = [crops[0][0], crops[0][3], crops[0][2], crops[0][1]]
        source, target = (torch.tensor([crop]) for crop in crops)
        tokens = torch.arange(sides[1] ** 2)[None]
        positions_in_image = token_positions(tokens, sides[1], source, units, coordinates)
        inside = strictly_inside(positions_in_image, target, units)[0]
        weights = target_map(positions_in_image, target, sides[0], units, coordinates)[0]
        for token in range(sides[1] ** 2):
            valid, expected = simple_row(token, sides, crops, size, coordinates)
            rounding_errors += bool(valid) != _is_inside_in_float32(token, sides[1], crops, size, coordinates)
            assert bool(inside[token]) == valid
            torch.testing.assert_close(weights[token], torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert rounding_errors > 10  # so the crops are hard cases


def _position(token: int, side: int, crop: list[int], size: tuple[int, int], coordinates: str, number) -> list:
    """Return (row, column) of a token in units of the image's last row and column (spec udi 2.2).

    number: type of the numbers, `Fraction` or `np.float32`.
    """
    cells = divmod(token, side)
    shares = [number(c) / (side - 1) if coordinates == "corner" else (number(c) + number(1) / 2) / side for c in cells]
    ends = [(number(crop[axis]) / (size[axis] - 1), number(crop[axis + 2]) / (size[axis] - 1)) for axis in (0, 1)]
    return [first + share * (last - first) for share, (first, last) in zip(shares, ends, strict=True)]


def simple_row(token, sides, crops, size, coordinates) -> tuple[bool, list[float]]:
    """Return whether a token lies strictly inside the second crop, and its row of the target map, by fractions."""
    position = _position(token, sides[1], crops[0], size, coordinates, Fraction)
    valid, grid = True, []
    for axis in (0, 1):
        first, last = (Fraction(crops[1][axis + 2 * end], size[axis] - 1) for end in (0, 1))
        valid &= min(first, last) < position[axis] < max(first, last)
        share = (position[axis] - first) / (last - first)
        inner = min(max(share * sides[0] - Fraction(1, 2), 0), sides[0] - 1)
        grid.append(share * (sides[0] - 1) if coordinates == "corner" else inner)
    axis_weights = [[max(Fraction(0), 1 - abs(value - i)) for i in range(sides[0])] for value in grid]
    return valid, [float(row * column) * valid for row in axis_weights[0] for column in axis_weights[1]]


def _is_inside_in_float32(token, side, crops, size, coordinates) -> bool:
    """Return whether a token lies strictly inside the second crop according to float32 numbers."""
    position = _position(token, side, crops[0], size, coordinates, np.float32)
    ends = [[np.float32(crops[1][axis + 2 * end]) / np.float32(size[axis] - 1) for end in (0, 1)] for axis in (0, 1)]
    return all(min(pair) < value < max(pair) for pair, value in zip(ends, position, strict=True))


def test_weights_of_the_target_map_average_positions_of_tokens_to_the_position_of_the_sample() -> None:
    """Bilinear weights have this property."""
    box, position = torch.tensor([[0, 100, 100, 0]]), torch.tensor([[[4 * 37 + 1, 4 * 81 + 2]]])
    target = target_map(position, box, side=5, units=4)
    tokens = token_positions(torch.arange(25)[None], side=5, box=box, units=4).float()
    torch.testing.assert_close(target @ tokens, position.float())


def test_no_token_lies_inside_a_box_without_extent() -> None:
    """An image of one pixel has such a crop."""
    box = torch.zeros(1, 4, dtype=torch.int64)
    positions_in_image = token_positions(torch.arange(4)[None], side=2, box=box, units=1)
    assert not strictly_inside(positions_in_image, box, units=1).any()
    assert (target_map(positions_in_image, box, side=2, units=1) == 0).all()


def test_a_mean_without_valid_samples_is_zero() -> None:
    vectors = torch.ones(2, 3, 4)
    means = masked_mean(vectors, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(means, torch.tensor([[1.0] * 4, [0.0] * 4]), atol=1e-5, rtol=1e-5)
