"""Few-shot rows drawn with the classes' shares, as the published text evaluation did."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from fungi.combine.few_shot import few_shot_rows, stratified_rows
from fungi.errors import FungiError
from fungi.scoring.knn_concat import KnnSettings

TARGETS = np.repeat([0, 1, 2], [900, 90, 10])


def test_stratified_rows_are_as_many_and_keep_the_shares():
    rows = stratified_rows(TARGETS, 10)
    assert np.bincount(TARGETS[rows], minlength=3).tolist() == [27, 3, 0]
    assert (np.diff(rows) > 0).all()


def test_stratified_rows_are_those_of_scikit_learn_with_the_published_seed():
    wanted, _ = train_test_split(np.arange(len(TARGETS)), train_size=30, stratify=TARGETS, random_state=42)
    assert stratified_rows(TARGETS, 10).tolist() == sorted(wanted)
    assert stratified_rows(TARGETS, 10, seed=1).tolist() != sorted(wanted)


def test_stratified_draws_that_can_not_be_are_refused():
    with pytest.raises(FungiError, match=r"1200 of 1000 train rows can't be drawn.*--few-shot-sampling balanced"):
        stratified_rows(TARGETS, 400)


def test_the_flag_chooses_the_rule():
    balanced, stratified = (KnnSettings(shots=3, few_shot_sampling=name) for name in ("balanced", "stratified"))
    assert balanced.rows(TARGETS, None).tolist() == few_shot_rows(TARGETS, 3).tolist()
    assert stratified.rows(TARGETS, None).tolist() == stratified_rows(TARGETS, 3).tolist()
    with pytest.raises(FungiError, match=r"--few-shot-sampling draws shots: give their number"):
        KnnSettings(few_shot_sampling="stratified")


def test_no_row_is_drawn_twice_and_every_class_has_its_shots():
    targets = np.repeat(np.arange(4), 6)
    for seed in (None, *range(20)):
        rows = few_shot_rows(targets, 5, seed)
        assert len(set(rows.tolist())) == 20
        assert np.bincount(targets[rows]).tolist() == [5, 5, 5, 5]
