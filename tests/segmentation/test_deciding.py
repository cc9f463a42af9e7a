"""Stored files are reused only if all settings that can change them are equal."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fungi.data.base import MaskRules
from fungi.search.libraries import TreeSettings
from fungi.search.stored import DATA_EFFICIENT_TREE
from fungi.segmentation import evaluation
from fungi.segmentation.image_blocks import Reader, image_blocks
from fungi.segmentation.scoring import Predictor, confusion_matrix
from fungi.segmentation.segment import run
from fungi.views.image import HALF
from fungi.views.scenes import SceneView
from tests.segmentation.own_masks import write_dataset
from tests.segmentation.test_protocol import simple_settings
from tests.store.flips import detected_flips


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("squares"))


VARIANTS = [
    {},
    {"normalise_tokens_before_head": True},
    {"denominator_temperature": False},
    {"neighbour_layout": "published"},
    {"projection_kind": "binary"},
    {"search": "faiss"},  # also searches the negatives, which decide the gradients
]


@pytest.mark.slow
def test_every_variant_of_the_gradient_has_its_own_bank(squares: str, tmp_path: Path) -> None:
    for flags in VARIANTS:
        evaluation.prepare(simple_settings(tmp_path, squares, **flags)).predictor("simclr")
    features = [folder.name.partition("-")[0] for folder in tmp_path.glob("banks/*/*/*")]
    assert (features.count("simclr"), features.count("embeddings")) == (len(VARIANTS), 1)


@pytest.mark.parametrize("flags", [{"temperature": 5.0}, {"neighbours": 40}, {"split": "train"}])
def test_scores_do_not_depend_on_other_results_in_the_folder(flags: dict, squares: str, tmp_path: Path) -> None:
    shared, separate = tmp_path / "shared", tmp_path / "separate"
    defaults = run(simple_settings(shared, squares, features=("embeddings",)))["results"]
    in_shared, in_separate = (
        run(simple_settings(root, squares, features=("embeddings",), **flags))["results"] for root in (shared, separate)
    )
    assert in_shared == in_separate
    assert in_shared != defaults


def test_negatives_are_always_searched_with_the_tree_of_the_full_setting(
    squares: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = []
    bank_search = evaluation.BankSearch

    def record_tree(*arguments, tree: TreeSettings, **options):
        trees.append(tree)
        return bank_search(*arguments, tree=tree, **options)

    monkeypatch.setattr(evaluation, "BankSearch", record_tree)
    evaluation.prepare(simple_settings(tmp_path, squares, images=3)).predictor("simclr")
    assert trees == [TreeSettings(), DATA_EFFICIENT_TREE]  # for the negatives, then for the predictor


class OneImage(Reader):
    """A reader that returns the same mask of three classes for every block."""

    def read(self, blocks):
        mask = torch.tensor([[0, 0, 1, 2]]).repeat(4, 1)[None].byte()
        return [(block, iter([{"mask": mask}])) for block in blocks]


class AlwaysOne(Predictor):
    """A predictor that returns class 1 for all pixels."""

    bank = SimpleNamespace(classes=3)

    def __call__(self, features: torch.Tensor) -> np.ndarray:
        return np.ones((1, 4, 4), dtype=np.int64)


def test_flipped_bits_of_stored_scores_are_detected(tmp_path: Path) -> None:
    """The scores of each block are stored, so that a killed run can be resumed."""
    blocks = image_blocks(images=1, views=[SceneView(size=4, statistics=HALF)], size=1)
    # `__new__` instead of a call, because `__init__` needs files that this test does not use.
    reader, predictor = (kind.__new__(kind) for kind in (OneImage, AlwaysOne))

    def scores() -> list[list[int]]:
        rules = MaskRules(input_size=4, ignored=0)
        return confusion_matrix(tmp_path, reader, blocks, lambda batch: torch.zeros(1, 1, 1), predictor, rules).tolist()

    assert scores() == [[0, 0, 0], [0, 4, 0], [0, 4, 0]]
    (file,) = tmp_path.iterdir()
    assert detected_flips(file, scores, count=200) >= 180


def test_pixels_of_the_ignored_class_are_not_counted(tmp_path: Path) -> None:
    blocks = image_blocks(images=1, views=[SceneView(size=4, statistics=HALF)], size=1)
    # `__new__` instead of a call, because `__init__` needs files that this test does not use.
    reader, predictor = (kind.__new__(kind) for kind in (OneImage, AlwaysOne))
    rules = MaskRules(input_size=4, ignored=0)
    matrix = confusion_matrix(tmp_path, reader, blocks, lambda batch: torch.zeros(1, 1, 1), predictor, rules)
    assert matrix.tolist() == [[0, 0, 0], [0, 4, 0], [0, 4, 0]]
