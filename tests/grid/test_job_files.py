"""The parsers of the commands accept all job files, and the array of a job fits the default grid."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fungi.data.preparation import PrepareSettings
from fungi.errors import FungiError
from fungi.grid.array import array_text
from fungi.grid.calls import call_of, call_of_job, command_line
from fungi.grid.declaration import Grid, declared_grid
from fungi.grid.elements import elements_of
from fungi.grid.job_files import grid_job_files, read_job_file
from fungi.grid.submit import DEFAULT_JOBS
from fungi.settings import parse

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED_NAMES = {
    "generate_pets": "images.tar.gz",
    "generate_imagenet100": "imagenet100.zip",
    "generate_cub": "CUB_200_2011.tgz",
}
"""Name of a job of the published code -> an archive that it needs. These jobs only call `prepare.job`."""
JOB_FILES = sorted(path for path in (ROOT / "jobs").rglob("*.job") if path.stem not in PUBLISHED_NAMES)
GRID_JOBS = grid_job_files(ROOT)
each_grid_job = pytest.mark.parametrize("job", GRID_JOBS, ids=lambda job: job.name)


@each_grid_job
def test_the_parser_of_the_command_accepts_a_job(job) -> None:
    grid = Grid(backbones=("digits-vit", "vit-b16"))
    assert elements_of(grid, call_of_job(job, grid))


@each_grid_job
def test_the_array_of_a_job_fits_the_default_grid(job) -> None:
    grid = declared_grid({})
    count = len(elements_of(grid, call_of_job(job, grid)))
    assert job.directives["array"] in (array_text(range(count)), f"0-{count - 1}")


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.stem)
def test_a_job_can_be_preempted_and_has_its_own_log(path: Path) -> None:
    text = path.read_text()
    for directive in ("--requeue", "--open-mode=append", "--signal=B:USR1@120", "--time=", "--mem=", "--output=logs/"):
        assert f"#SBATCH {directive}" in text
    assert "partition" not in text, "the user chooses the partition with $SBATCH_PARTITION"
    assert "/home" not in text


def test_only_jobs_that_compute_on_tensors_request_a_gpu() -> None:
    for job in GRID_JOBS:
        needs_gpu = job.words[0] in ("extract", "extract-gradients", "knn", "retrieval", "segment", "ablate")
        assert (job.directives.get("gpus") == "1") == needs_gpu, job.name


def test_all_default_jobs_exist() -> None:
    assert set(DEFAULT_JOBS) <= {job.name for job in GRID_JOBS}


def test_the_job_for_datasets_runs_an_existing_script_with_valid_flags() -> None:
    text = (ROOT / "jobs" / "datasets" / "prepare.job").read_text()
    ((script, flags),) = re.findall(r"^in_project (\S+) (.+)$", text, flags=re.MULTILINE)
    assert (ROOT / script).is_file()
    without_variables = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", flags.replace("${FUNGI_DATASETS:-}", "pets cars"))
    settings = parse(PrepareSettings, shlex.split(without_variables), program="", description="")
    assert settings == PrepareSettings(dataset=("pets", "cars"), archives=Path("downloads"), data_dir=Path("data"))


def test_the_project_contains_the_folder_of_logs() -> None:
    """SLURM ends a job without a message if the folder of its output does not exist."""
    assert (ROOT / "logs" / ".gitkeep").exists()


def test_messages_name_unknown_jobs_commands_and_flags() -> None:
    with pytest.raises(FungiError, match=r"unknown job 'concatt'\. Did you mean 'concat'"):
        read_job_file(ROOT, "concatt")
    with pytest.raises(FungiError, match="does not run a command over the grid"):
        read_job_file(ROOT, "datasets/prepare")
    with pytest.raises(FungiError, match=r"unknown command of the grid 'extrac'\. Did you mean 'extract'"):
        call_of(["extrac"], Grid())
    with pytest.raises(FungiError, match="unknown objective 'kll'"):
        call_of(["extract-gradients", "--objective", "kll"], Grid())
    with pytest.raises(FungiError, match="--kk"):
        call_of_job(read_job_file(ROOT, "concat"), Grid(flags={"knn": "--kk 3"}))


def test_flags_of_the_grid_replace_flags_of_the_job() -> None:
    grid = Grid(flags={"extract-gradients": "--objective kl"})
    call = call_of(["extract-gradients", "--with-embeddings", "--objective", "kl", "dino"], grid)
    assert call.features == ("embeddings", "kl")


def test_the_projection_job_draws_the_matrix_that_extraction_reads() -> None:
    grid = Grid(flags={"extract-gradients": "--seed 7 --projection-kind gaussian"})
    call = call_of(["projection"], grid)
    line = " ".join(command_line(elements_of(grid, call)[0], call, grid))
    assert "--kind gaussian" in line
    assert "--seed 7" in line
    assert re.search(r"projections/gaussian-\d+x\d+-seed7.pth", line)


def run_job(path: str, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a job file with plain sh, without SLURM."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("FUNGI_", "SLURM_"))}
    environment |= {"FUNGI_PYTHON": sys.executable, "FUNGI_ROOT": str(tmp_path / "features"), **variables}
    return subprocess.run(["sh", path], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_missing_variable_of_an_array_ends_a_job_at_once(tmp_path: Path) -> None:
    process = run_job("jobs/extract.job", tmp_path, SLURM_ARRAY_TASK_ID="0")
    assert process.returncode == 2
    assert "some variables of a SLURM array are set" in process.stderr
    assert not (tmp_path / "features").exists()


def test_a_job_outside_of_the_project_prints_the_missing_file(tmp_path: Path) -> None:
    process = run_job("jobs/extract.job", tmp_path, SLURM_SUBMIT_DIR=str(tmp_path))
    assert process.returncode == 2
    assert "jobs/common.sh" in process.stderr


@pytest.mark.slow
def test_the_exit_status_of_a_job_is_the_status_of_its_command(tmp_path: Path) -> None:
    process = run_job("jobs/concat.job", tmp_path)
    assert process.returncode == 2
    assert "Run fungi extract and extract-gradients first" in process.stderr


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_a_job_for_a_dataset_runs_without_slurm_and_names_the_missing_archive(name: str, tmp_path: Path) -> None:
    variables = {
        "FUNGI_ARCHIVES": str(tmp_path),
        "FUNGI_DATA_DIR": str(tmp_path),
        "FUNGI_DATASETS": "cars",  # the job replaces this value
    }
    process = run_job(f"jobs/datasets/{name}.job", tmp_path, **variables)
    assert process.returncode == 2
    assert f"there is no {PUBLISHED_NAMES[name]}" in process.stderr
