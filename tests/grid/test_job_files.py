"""The real parsers accept all job files: names and flags are known, and the array fits the default grid."""

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
"""Jobs of the published code, which call `prepare.job`, and an archive that each needs."""
ALL = sorted(path for path in (ROOT / "jobs").rglob("*.job") if path.stem not in PUBLISHED_NAMES)
OVER_GRID = grid_job_files(ROOT)
names = pytest.mark.parametrize("job", OVER_GRID, ids=lambda job: job.name)


@names
def test_the_real_parser_accepts_a_job(job) -> None:
    grid = Grid(backbones=("digits-vit", "vit-b16"))
    assert elements_of(grid, call_of_job(job, grid))


@names
def test_the_array_of_a_job_fits_the_default_grid(job) -> None:
    grid = declared_grid({})
    count = len(elements_of(grid, call_of_job(job, grid)))
    assert job.directives["array"] in (array_text(range(count)), f"0-{count - 1}")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_job_can_be_preempted_and_has_a_log_of_its_own(path: Path) -> None:
    text = path.read_text()
    for directive in ("--requeue", "--open-mode=append", "--signal=B:USR1@120", "--time=", "--mem=", "--output=logs/"):
        assert f"#SBATCH {directive}" in text
    assert "partition" not in text, "clusters have partitions of their own: $SBATCH_PARTITION"
    assert "/home" not in text


def test_extraction_requests_one_gpu() -> None:
    for job in OVER_GRID:
        wants_gpu = job.words[0] in ("extract", "extract-gradients", "knn", "retrieval", "segment", "ablate")
        assert (job.directives.get("gpus") == "1") == wants_gpu, job.name


def test_all_default_jobs_exist() -> None:
    assert set(DEFAULT_JOBS) <= {job.name for job in OVER_GRID}


def test_the_job_of_datasets_runs_an_existing_script_with_flags_that_it_accepts() -> None:
    text = (ROOT / "jobs" / "datasets" / "prepare.job").read_text()
    ((script, flags),) = re.findall(r"^in_project (\S+) (.+)$", text, flags=re.MULTILINE)
    assert (ROOT / script).is_file()
    plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", flags.replace("${FUNGI_DATASETS:-}", "pets cars"))
    settings = parse(PrepareSettings, shlex.split(plain), program="", description="")
    assert settings == PrepareSettings(dataset=("pets", "cars"), archives=Path("downloads"), data_dir=Path("data"))


def test_the_project_contains_the_folder_of_the_logs() -> None:
    """SLURM ends a job without a message if the folder of its output does not exist."""
    assert (ROOT / "logs" / ".gitkeep").exists()


def test_unknown_jobs_commands_and_flags_are_named() -> None:
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


def test_flags_of_the_grid_come_after_those_of_the_job() -> None:
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
    """Run a job file with plain sh outside of SLURM, as `sh jobs/...` does."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("FUNGI_", "SLURM_"))}
    environment = {**kept, "FUNGI_PYTHON": sys.executable, "FUNGI_ROOT": str(tmp_path / "features"), **variables}
    return subprocess.run(["sh", path], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_half_set_variables_end_a_job_at_once(tmp_path: Path) -> None:
    done = run_job("jobs/extract.job", tmp_path, SLURM_ARRAY_TASK_ID="0")
    assert done.returncode == 2
    assert "some variables of a SLURM array are set" in done.stderr
    assert not (tmp_path / "features").exists()


def test_a_job_outside_of_the_project_names_the_cause(tmp_path: Path) -> None:
    done = run_job("jobs/extract.job", tmp_path, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "jobs/common.sh" in done.stderr


@pytest.mark.slow
def test_the_status_of_a_job_is_that_of_its_command(tmp_path: Path) -> None:
    done = run_job("jobs/concat.job", tmp_path)
    assert done.returncode == 2
    assert "Run fungi extract and extract-gradients first" in done.stderr


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_a_job_of_one_dataset_runs_without_slurm_and_names_the_archives_that_it_needs(
    name: str, tmp_path: Path
) -> None:
    folders = {"FUNGI_ARCHIVES": str(tmp_path), "FUNGI_DATA_DIR": str(tmp_path), "FUNGI_DATASETS": "cars"}
    done = run_job(f"jobs/datasets/{name}.job", tmp_path, **folders)
    assert done.returncode == 2
    assert f"there is no {PUBLISHED_NAMES[name]}" in done.stderr
