"""Each array index stands for a backbone, dataset, split and shard. All indices together cover the grid once."""

import itertools
from collections import Counter

import pytest

from fungi.backbones.base import BACKBONES
from fungi.data.base import DATASETS
from fungi.errors import FungiError
from fungi.grid.array import MAX_ARRAY, array_text, chosen_indices, chunks
from fungi.grid.declaration import Grid
from fungi.grid.elements import GridCall, elements_of
from fungi.grid.throughput import relative_forwards, relative_work, seconds_per_row, shards_for
from fungi.store.shard import Shard

EXTRACTION = GridCall("extract-gradients", features=("kl", "dino", "simclr"))


def variables_of_task(index: int, count: int, low: int | None = None, high: int | None = None) -> dict[str, str]:
    """Return the variables that SLURM sets for a task of an array."""
    low, high = (0 if low is None else low), (count - 1 if high is None else high)
    values = {"JOB_ID": 7, "TASK_ID": index, "TASK_COUNT": count, "TASK_MIN": low, "TASK_MAX": high, "TASK_STEP": 1}
    return {f"SLURM_ARRAY_{name}": str(value) for name, value in values.items()}


def test_the_elements_are_the_product_of_the_axes() -> None:
    grid = Grid(backbones=("digits-vit", "vit-b16"), datasets=("digits", "pets"), shards=3)
    values = [
        (element.backbone, element.dataset, element.split, element.shard) for element in elements_of(grid, EXTRACTION)
    ]
    expected = [
        (backbone, dataset, split, Shard(shard, 3))
        for backbone, dataset in itertools.product(grid.backbones, grid.datasets)
        for split in DATASETS[dataset].splits
        for shard in (1, 2, 3)
    ]
    assert values == expected


def test_the_indices_of_an_array_cover_all_elements_once() -> None:
    counts = Counter(index for task in range(12) for index in chosen_indices(variables_of_task(task, 12), 12))
    assert counts == Counter(range(12))


def test_outside_of_an_array_a_job_runs_all_elements_in_sequence() -> None:
    assert chosen_indices({"SLURM_JOB_ID": "5"}, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("absent", sorted(set(variables_of_task(0, 4)) - {"SLURM_ARRAY_TASK_STEP"}))
def test_a_missing_variable_of_an_array_is_an_error(absent: str) -> None:
    variables = {name: text for name, text in variables_of_task(0, 4).items() if name != absent}
    with pytest.raises(FungiError, match=f"are set, but not {absent}"):
        chosen_indices(variables, 4)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (variables_of_task(0, 5), "goes up to index 4, but the grid has 4 elements. Use sbatch --array=0-3"),
        (variables_of_task(3, count=1, low=3, high=7), "goes up to index 7"),
        (variables_of_task(0, 2), "has 2 tasks, but the grid has 4 elements. Use sbatch --array=0-3"),
        (variables_of_task(3, count=4, low=0, high=2), "contradict"),
        ({**variables_of_task(0, 4), "SLURM_ARRAY_TASK_ID": "x"}, "SLURM_ARRAY_TASK_ID is 'x', not a number"),
    ],
)
def test_an_array_that_does_not_fit_the_grid_is_an_error(variables: dict[str, str], message: str) -> None:
    with pytest.raises(FungiError, match=message):
        chosen_indices(variables, 4)


def test_an_array_over_a_part_of_the_grid_has_to_be_declared() -> None:
    variables = variables_of_task(3, count=2, low=1, high=3)
    with pytest.raises(FungiError, match="has 2 tasks, but the grid has 4 elements"):
        chosen_indices(variables, 4)
    assert chosen_indices({**variables, "FUNGI_PARTIAL": "1"}, 4) == [3]


def test_a_grid_larger_than_an_array_becomes_arrays_that_cover_it() -> None:
    count = 2 * MAX_ARRAY + 17
    counts: Counter[int] = Counter()
    for first, tasks in chunks(range(count)):
        assert max(tasks) < MAX_ARRAY
        for task in (tasks[0], tasks[-1]):
            variables = variables_of_task(task, len(tasks), low=tasks[0], high=tasks[-1])
            variables |= {"FUNGI_PARTIAL": "1", "FUNGI_FIRST": str(first)}
            counts.update(chosen_indices(variables, count))
    assert counts == Counter([0, MAX_ARRAY - 1, MAX_ARRAY, 2 * MAX_ARRAY - 1, 2 * MAX_ARRAY, count - 1])


@pytest.mark.parametrize(
    ("indices", "text"), [([0, 1, 2, 5], "0-2,5"), ([4], "4"), ([9, 3, 8, 1], "1,3,8-9"), (range(3), "0-2")]
)
def test_indices_are_written_in_the_format_of_sbatch(indices: list[int], text: str) -> None:
    assert array_text(indices) == text


def test_retrieval_runs_on_landmark_datasets_and_classification_on_the_others() -> None:
    grid = Grid(datasets=("digits", "oxford-landmarks"))
    assert [element.dataset for element in elements_of(grid, GridCall("knn"))] == ["digits"]
    assert [element.dataset for element in elements_of(grid, GridCall("retrieval", landmarks=True))] == [
        "oxford-landmarks"
    ]
    assert {element.dataset for element in elements_of(grid, GridCall("extract"))} == {"digits", "oxford-landmarks"}
    assert {element.dataset for element in elements_of(grid, GridCall("extract", landmarks=True))} == {
        "oxford-landmarks"
    }


def test_a_split_that_a_dataset_does_not_have_is_an_error() -> None:
    with pytest.raises(FungiError, match=r"dataset 'digits' has no split 'valid'\. It has: train, test"):
        elements_of(Grid(splits=("valid",)), EXTRACTION)


def test_backbones_are_paired_only_with_datasets_of_their_modality() -> None:
    grid = Grid(backbones=tuple(BACKBONES), datasets=tuple(DATASETS))
    for element in elements_of(grid, EXTRACTION):
        assert BACKBONES[element.backbone].modality == DATASETS[element.dataset].modality


def test_an_element_takes_at_most_an_hour_and_not_much_less() -> None:
    rows, backbone = 20 * 1_281_167, BACKBONES["vit-b16"]  # 20 times ImageNet, so that rounding does not matter
    features = ("embeddings", "kl", "dino", "simclr")
    shards = shards_for(rows, backbone, features, "a100")
    hours = rows / shards * seconds_per_row(backbone, features, "a100") / 3600
    assert 0.9 < hours <= 1.0
    assert shards_for(rows, backbone, features, "h100") == pytest.approx(shards / 2.2, abs=1)  # 2.2 times as fast
    assert shards_for(540, backbone, features, "a100") == 1


@pytest.mark.parametrize(("gpu", "images_per_second"), [("a100", 66), ("h100", 145), ("h200", 167)])
def test_the_estimated_speed_of_vit_b16_has_the_factor_of_the_gpu(gpu: str, images_per_second: int) -> None:
    """On an A100, the estimate is eight times the speed of the published code, which encodes every view separately in
    float32. An H100 is 2.2 times as fast, and an H200 2.53 times."""
    features = ("embeddings", "kl", "dino", "simclr")
    assert 1 / seconds_per_row(BACKBONES["vit-b16"], features, gpu) == pytest.approx(images_per_second, rel=0.05)


@pytest.mark.parametrize(("views", "dino", "simclr"), [("native", 3.84 / 12, 1 / 4), ("budget", 3.84 / 12, 3.72 / 49)])
def test_the_cost_of_a_view_is_proportional_to_its_area(views: str, dino: float, simclr: float) -> None:
    """DINO has local crops of 96 pixels: 2 + 10 x (96/224)^2 = 3.84 forwards. SimCLR has 49 patches of 112 pixels
    (`native`), or 9 patches of 144 pixels (`budget`)."""
    for feature, expected in (("embeddings", 1), ("kl", 1), ("dino", dino), ("simclr", simclr)):
        assert relative_forwards(BACKBONES["vit-b16"], feature, views) == pytest.approx(expected, rel=0.01)


def test_on_a_fast_gpu_the_preparation_of_views_limits_the_speed() -> None:
    """For a small backbone on an H200, preparing the crops of DINO takes longer than their forward passes."""
    workers, images_per_second_and_worker = 15, 22
    images_per_second = 1 / seconds_per_row(BACKBONES["digits-vit"], ("dino",), "h200")
    assert images_per_second == pytest.approx(workers * images_per_second_and_worker, rel=0.05)


def test_work_is_relative_to_vit_b16() -> None:
    assert relative_work(BACKBONES["vit-b16"]) == pytest.approx(1.0)
    assert relative_work(BACKBONES["vit-l16"]) == pytest.approx(3.55, rel=0.01)  # twice the blocks, 4/3 of the width
    assert relative_work(BACKBONES["vit-s16"]) == pytest.approx(0.25)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_backbone_has_an_estimate(name: str) -> None:
    assert 0 < relative_work(BACKBONES[name]) < 20


def test_datasets_with_masks_are_only_in_the_grid_of_segmentation() -> None:
    grid = Grid(backbones=("dino_vits16",), datasets=("pets", "pascal-voc", "ade20k"))
    segment = [str(element) for element in elements_of(grid, GridCall("segment"))]
    assert segment == ["dino_vits16 pascal-voc", "dino_vits16 ade20k"]
    assert {element.dataset for element in elements_of(grid, GridCall("extract", features=("embeddings",)))} == {"pets"}
    assert [str(element) for element in elements_of(Grid(), GridCall("segment"))] == ["digits-vit digit-scenes"]
