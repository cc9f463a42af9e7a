"""Stratified samples and their maps (spec udi 2; 9.4-1, 9.4-2)."""

import numpy as np
import pytest
import torch

from fungi.pretraining.udi.sampling import masked_mean, one_hot_map, stratified_tokens, target_map, token_positions


@pytest.mark.parametrize(("side", "window"), [(14, 3), (6, 2), (8, 2), (5, 5), (7, 1), (1, 1)])
def test_there_is_one_sample_in_each_window_of_a_corner_square(side: int, window: int) -> None:
    count, corners = side // window, set()
    for seed in range(40):
        tokens = stratified_tokens(np.random.default_rng(seed), side, window)
        rows, columns = tokens // side, tokens % side
        margin = side - count * window
        offsets = [
            (top, left)
            for top in {0, margin}
            for left in {0, margin}
            if {((r - top) // window, (c - left) // window) for r, c in zip(rows, columns, strict=True)}
            == {(i, j) for i in range(count) for j in range(count)}
        ]
        assert len(tokens) == count**2 == len(set(tokens.tolist()))
        assert offsets, (tokens, "no corner holds the square")
        corners.update(offsets if len(offsets) == 1 else [])
    if side % window:
        assert len(corners) == 4


def test_every_token_is_drawn() -> None:
    drawn = {token for seed in range(200) for token in stratified_tokens(np.random.default_rng(seed), 4, 2).tolist()}
    assert drawn == set(range(16))


def test_positions_are_between_the_corners_of_the_crop() -> None:
    box = torch.tensor([[0.2, 0.9, 0.6, 0.5]])  # flipped: columns run backwards
    tokens = torch.tensor([[0, 3, 12, 15]])
    expected = torch.tensor([[[0.2, 0.9], [0.2, 0.5], [0.6, 0.9], [0.6, 0.5]]])
    torch.testing.assert_close(token_positions(tokens, 4, box), expected)
    centred = token_positions(tokens, 4, box, "center")
    torch.testing.assert_close(centred[0, 0], torch.tensor([0.25, 0.85]))


def test_identical_boxes_make_the_target_map_the_source_map_inside() -> None:
    box, tokens = torch.tensor([[0.1, 0.2, 0.7, 0.9]]), torch.arange(36)[None]
    target, valid = target_map(token_positions(tokens, 6, box), box, 6)
    inner = [token for token in range(36) if 0 < token // 6 < 5 and 0 < token % 6 < 5]
    assert valid[0].nonzero().flatten().tolist() == inner  # those on the edge are not strictly inside
    torch.testing.assert_close(target[0, inner], one_hot_map(tokens, 36)[0, inner], atol=2e-6, rtol=0)


def test_a_mirrored_target_has_the_mirrored_column() -> None:
    source, mirrored = torch.tensor([[0.1, 0.2, 0.7, 0.9]]), torch.tensor([[0.1, 0.9, 0.7, 0.2]])
    tokens = torch.tensor([[7, 9, 28]])
    target, valid = target_map(token_positions(tokens, 6, source), mirrored, 6)
    assert valid.all()
    assert target.argmax(-1).tolist() == [[row * 6 + 5 - column for row, column in ((1, 1), (1, 3), (4, 4))]]


@pytest.mark.parametrize("coordinates", ["corner", "center"])
def test_rows_of_a_target_map_sum_to_validity(coordinates) -> None:
    generator = torch.Generator().manual_seed(0)
    start, extent = torch.rand(50, 2, generator=generator), torch.rand(50, 2, generator=generator) - 0.5
    box = torch.cat([start, start + extent], dim=1)
    target, valid = target_map(torch.rand(50, 9, 2, generator=generator), box, 7, coordinates)
    torch.testing.assert_close(target.sum(-1), valid.float())
    assert 0 < valid.float().mean() < 1


def test_a_bilinear_row_is_where_it_should_be() -> None:
    """The mean position of the grid's tokens under the weights of a row is the position itself."""
    box, position = torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.tensor([[[0.37, 0.81]]])
    target, _ = target_map(position, box, 5)
    places = token_positions(torch.arange(25)[None], 5, box)
    torch.testing.assert_close(target @ places, position)


def test_a_box_without_extent_has_nothing_inside() -> None:
    """The crop of an image of one pixel."""
    box = torch.zeros(1, 4)
    target, valid = target_map(token_positions(torch.arange(4)[None], 2, box), box, 2)
    assert not valid.any()
    assert (target == 0).all()


def test_the_mean_over_no_valid_sample_is_zero() -> None:
    vectors = torch.ones(2, 3, 4)
    means = masked_mean(vectors, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(means, torch.tensor([[1.0] * 4, [0.0] * 4]), atol=1e-5, rtol=1e-5)
