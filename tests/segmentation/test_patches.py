"""Labels of patches, the selection of patches, and the metric (spec dense 7, checks 1, 2 and 4)."""

import numpy as np
import pytest
import torch

from fungi.evaluators.segmentation import (
    attention_vote,
    confusion,
    matched_miou,
    segmentation_scores,
    upsampled_classes,
)
from fungi.segmentation.memory_bank import chosen_patches, patch_labels


def test_labels_are_the_shares_of_each_cell_row_by_row() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 0:2, 4:8] = 1  # half of the second cell
    mask[0, 7, 0] = 2  # one pixel of the third cell
    expected = [[16, 0, 0], [8, 8, 0], [15, 0, 1], [16, 0, 0]]
    assert patch_labels(mask, grid=2, classes=3)[0].tolist() == expected


def test_void_is_the_void_class_or_no_class() -> None:
    mask = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    mask[0, 0] = 1
    assert patch_labels(mask, grid=1, classes=2, void_class=0)[0, 0].tolist() == [12, 4]
    assert patch_labels(mask, grid=1, classes=2)[0, 0].tolist() == [0, 4]


def counts_of(classes: list[list[int]]) -> torch.Tensor:
    """Return the pixels of each class in each patch, `[t 4]`. classes: for each patch, its classes."""
    counts = torch.zeros(len(classes), 4, dtype=torch.int64)
    for patch, present in enumerate(classes):
        counts[patch, present] = 5
    return counts


def test_patches_with_rare_classes_are_preferred() -> None:
    """Two of 40 patches have class 1. Their score is 2u and the score of the others 38u, where u is a uniform draw."""
    counts = counts_of([[0]] * 38 + [[1]] * 2)
    kept = [chosen_patches(counts, 4, torch.Generator().manual_seed(seed)).tolist() for seed in range(200)]
    shares = np.bincount(np.concatenate(kept), minlength=40) / 200
    assert all(len(rows) == 4 and rows == sorted(set(rows)) for rows in kept)
    assert shares[38:].min() > 0.6 > 0.25 > shares[:38].max()


def test_the_score_equals_the_published_formula() -> None:
    """The score is the sum of n_c over the present classes times a uniform draw. Patches with low scores are kept."""
    present_classes = [[0], [0, 1], [2], [0, 2], [3], [0]]
    counts = counts_of(present_classes)
    patches_with = {0: 4, 1: 1, 2: 2, 3: 1}
    draws = torch.rand(6, generator=torch.Generator().manual_seed(7), dtype=torch.float64).tolist()
    scores = [sum(patches_with[c] for c in present) * u for present, u in zip(present_classes, draws, strict=True)]
    expected = sorted(sorted(range(6), key=lambda patch: scores[patch])[:3])
    assert chosen_patches(counts, 3, torch.Generator().manual_seed(7)).tolist() == expected


def test_patches_without_a_class_come_last() -> None:
    counts = counts_of([[], [], [0], [1], []])
    for seed in range(20):
        assert set(chosen_patches(counts, 2, torch.Generator().manual_seed(seed)).tolist()) == {2, 3}
    assert len(chosen_patches(counts, 4, torch.Generator().manual_seed(0))) == 4


def test_similar_neighbours_have_larger_weights_and_with_a_small_temperature_only_the_nearest_counts() -> None:
    scores, labels = torch.tensor([[0.9, 0.8, 0.1]]), torch.eye(3).unsqueeze(0)
    weights = torch.tensor([np.exp(s / 0.1) for s in (0.9, 0.8, 0.1)])
    torch.testing.assert_close(attention_vote(scores, labels, temperature=0.1)[0], (weights / weights.sum()).float())
    torch.testing.assert_close(attention_vote(scores, labels, temperature=1e-4)[0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(attention_vote(scores[:, :1], labels[:, :1], temperature=0.02)[0], labels[0, 0])


def test_an_excluded_class_is_never_predicted() -> None:
    votes = torch.tensor([[0.9, 0.1, 0.0]] * 4)
    assert upsampled_classes(votes, size=4).unique().tolist() == [0]
    assert upsampled_classes(votes, size=4, excluded=(0,)).unique().tolist() == [1]


def test_scores_equal_a_hand_computed_example() -> None:
    truth = np.array([[0, 0, 1], [1, 2, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1], [1, 0, 2]])
    matrix = confusion(truth, prediction, classes=4, ignored=255)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    scores = segmentation_scores(matrix)
    assert scores["IoU"] == pytest.approx([1 / 3, 2 / 3, 0, 0])  # a class without pixels has an IoU of 0
    assert scores["mIoU"] == pytest.approx(1 / 4)
    assert scores["pixel-accuracy"] == pytest.approx(3 / 5)


def test_ignored_pixels_do_not_count_and_predictions_of_unscored_classes_are_errors() -> None:
    truth, prediction = np.array([[0, 0, 1, 1]], dtype=np.uint8), np.array([[0, 1, 1, 0]])
    matrix = confusion(truth, prediction, classes=2, ignored=0)
    assert matrix.tolist() == [[0, 0], [1, 1]]
    scores = segmentation_scores(matrix, unscored=(0,))
    assert (scores["IoU"], scores["mIoU"]) == ([0.5], 0.5)


def test_a_constant_prediction_gives_the_share_of_its_class() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 5, (30, 30)).astype(np.uint8)
    scores = segmentation_scores(confusion(truth, np.zeros_like(truth, dtype=int), classes=5, ignored=255))
    assert scores["mIoU"] == pytest.approx((truth == 0).mean() / 5)


def test_matching_undoes_a_permutation_and_never_lowers_the_score() -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 4, (20, 20)).astype(np.uint8)
    assert matched_miou(confusion(truth, np.array([2, 0, 3, 1])[truth], classes=4, ignored=255)) == pytest.approx(1)
    noisy = confusion(truth, generator.integers(0, 4, (20, 20)), classes=4, ignored=255)
    assert matched_miou(noisy) >= segmentation_scores(noisy)["mIoU"]
