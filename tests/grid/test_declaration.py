"""Each value of the grid has one source, and invalid values are reported before anything is submitted."""

from pathlib import Path

import pytest

from fungi.commands import COMMANDS, grid_commands
from fungi.errors import FungiError
from fungi.grid.declaration import Grid, declared_grid


@pytest.fixture
def grid_file(tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text('backbones = ["vit-b16"]\ndatasets = ["pets"]\nshards = 4\n[flags]\nknn = "--k 5"\n')
    return path


def test_the_default_grid_is_the_dataset_and_the_backbone_of_the_package() -> None:
    (pair,) = declared_grid({}).pairs(landmarks=False)
    assert (pair.backbone, pair.dataset) == ("digits-vit", "digits")
    assert (pair.backbone_spec.name, pair.dataset_spec.name) == ("digits-vit", "digits")


def test_a_file_and_variables_can_declare_the_same_grid(grid_file: Path) -> None:
    variables = {
        "FUNGI_BACKBONES": "vit-b16",
        "FUNGI_DATASETS": "pets",
        "FUNGI_SHARDS": "4",
        "FUNGI_FLAGS_KNN": "--k 5",
    }
    assert declared_grid({"FUNGI_GRID": str(grid_file)}) == declared_grid(variables)


def test_variables_can_add_values_that_the_file_does_not_have(grid_file: Path) -> None:
    grid = declared_grid({"FUNGI_GRID": str(grid_file), "FUNGI_ROOT": "/scratch/features"})
    assert (grid.root, grid.datasets) == (Path("/scratch/features"), ("pets",))


def test_a_grid_without_a_backbone_is_refused(grid_file: Path) -> None:
    grid_file.write_text("backbones = []\n")
    with pytest.raises(FungiError, match="the grid has no backbone"):
        declared_grid({"FUNGI_GRID": str(grid_file)})


def test_a_variable_that_contradicts_the_file_is_an_error(grid_file: Path) -> None:
    with pytest.raises(FungiError, match=r"datasets is pets in the grid file .*, but digits in the environment"):
        declared_grid({"FUNGI_GRID": str(grid_file), "FUNGI_DATASETS": "digits"})


def test_a_variable_with_flags_that_contradict_the_file_is_an_error(grid_file: Path) -> None:
    with pytest.raises(FungiError, match="flags"):
        declared_grid({"FUNGI_GRID": str(grid_file), "FUNGI_FLAGS_KNN": "--k 7"})


def test_a_grid_equals_the_grid_that_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    grid = Grid(
        backbones=("digits-vit", "vit-b16"),
        datasets=("digits", "mine=folder:" + str(tmp_path)),
        root=tmp_path / 'root "with quotes"',
        shards=3,
        flags={"extract-gradients": "--set simclr.temperature=0.1 --layer 'a.b:c d'"},
        jobs=("extract", "concat"),
        code="/copy",  # folder with the copy of the code that the jobs run
    )
    path = tmp_path / "written.toml"
    path.write_text(grid.to_toml())
    assert declared_grid({"FUNGI_GRID": str(path)}) == grid


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FUNGI_BACKBONES": "vit-b61"}, "unknown backbone 'vit-b61'"),
        ({"FUNGI_DATASETS": "pest"}, "'pest'"),
        ({"FUNGI_SHARDS": "many"}, "shards.* takes a whole number, not .many.* FUNGI_SHARDS"),
        ({"FUNGI_GPU": "a1000"}, "unknown gpu 'a1000'. Did you mean 'a100'"),
        ({"FUNGI_GRID": "/nowhere.toml"}, "/nowhere.toml"),
    ],
)
def test_the_message_names_an_invalid_value(variables: dict[str, str], message: str) -> None:
    with pytest.raises(FungiError, match=message):
        declared_grid(variables)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbones = [", "can't be read"),
        ('backbone = ["vit-b16"]', "unknown key of the grid 'backbone'. Did you mean 'backbones'"),
        ("datasets = [1]", "datasets.* takes a list of names"),
        ("flags = 3", "flags.* takes a table"),
        ('shards = "4"', "shards.* takes a whole number, not '4'"),
    ],
)
def test_the_message_about_an_invalid_grid_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(FungiError, match=message) as error:
        declared_grid({"FUNGI_GRID": str(path)})
    assert "wrong.toml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[flags]\nextract_gradients = "--profile published"', "'extract_gradients'.*'extract-gradients'"),
        ("root = 3", "root.* takes a path, not 3"),
        ('[flags]\nknn = "--k \'5"', "the flags of knn in the grid can't be split into words"),
    ],
)
def test_the_message_explains_the_error_in_a_grid_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(FungiError, match=message):
        declared_grid({"FUNGI_GRID": str(path)})


@pytest.mark.parametrize("name", ["FUNGI_DATASET", "FUNGI_FLAGS_EXTRACTGRADIENTS"])
def test_unknown_variables_are_an_error(name: str) -> None:
    with pytest.raises(FungiError, match=r"unknown (variable|command)"):
        declared_grid({name: "flowers102"})


def test_the_grid_can_have_flags_for_every_command_of_a_stage() -> None:
    for name in COMMANDS:
        variable = {f"FUNGI_FLAGS_{name.upper().replace('-', '_')}": "--x"}
        if name in grid_commands():
            assert declared_grid(variable).flags_of(name) == ["--x"]
        else:
            with pytest.raises(FungiError, match=f"unknown command of the grid '{name}'"):
                declared_grid(variable)
