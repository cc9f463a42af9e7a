"""The release: the wheel works in an empty environment, and the files of the project agree with each other."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import yaml

import fungi
from fungi.results.published import backbone_labels

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("src", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
FACTS_OF_INSTALLATION = """
import json
import fungi
from fungi.backbones.loading import load_backbone
from fungi.results.published import backbone_labels
print(json.dumps([fungi.__file__, load_backbone("digits-vit").weights_source, backbone_labels()]))
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Return what a command prints, and fail if its status is not 0. Python does not search the checkout."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    process = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def dist_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel, and return their folder. The wheel is built from the unpacked sdist."""
    project = tmp_path_factory.mktemp("release") / "project"
    project.mkdir()
    shutil.copytree(ROOT / "jobs", project / "jobs")
    for name in (*SHIPPED, "CONTRIBUTING.md", "requirements.txt", "requirements-dev.txt"):
        copy = partial(shutil.copytree, symlinks=True) if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    run(sys.executable, "-m", "build", "--no-isolation", project, "--outdir", project / "dist", cwd=project)
    return project / "dist"


@pytest.mark.release
@pytest.mark.slow
def test_the_wheel_runs_and_finds_its_data_in_an_empty_environment(dist_folder: Path, tmp_path: Path) -> None:
    """The package comes from the wheel. A path file adds the dependencies of the test environment."""
    (wheel,) = dist_folder.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    binaries = tmp_path / "venv" / "bin"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--no-index", "--no-deps")
    run(*pip, "--quiet", "--no-warn-script-location", wheel, cwd=tmp_path)
    torch_spec = importlib.util.find_spec("torch")
    assert torch_spec is not None
    assert torch_spec.origin is not None
    (packages / "dependencies.pth").write_text(f"{Path(torch_spec.origin).parents[1]}\n")

    assert run(binaries / "fungi", "--version", cwd=tmp_path) == f"fungi {fungi.__version__}\n"
    assert "digits-vit" in run(binaries / "fungi", "list", "backbones", cwd=tmp_path)
    file, weights, labels = json.loads(run(binaries / "python", "-c", FACTS_OF_INSTALLATION, cwd=tmp_path))
    assert Path(file).is_relative_to(packages)
    assert weights == "published weights: carried in the package"
    assert labels == backbone_labels()
    assert (packages / f"fungi-{fungi.__version__}.dist-info/licenses/LICENSE").is_file()
    assert (packages / "fungi/py.typed").is_file()
    shipped = sorted(str(path.relative_to(packages / "fungi")) for path in (packages / "fungi/jobs").rglob("*.*"))
    assert shipped == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "jobs").rglob("*.*"))
    assert_submits(binaries / "fungi", packages, tmp_path)


def assert_submits(program: Path, packages: Path, folder: Path) -> None:
    """Assert that job files come from the installed package, and that a submission copies package and jobs."""
    grid = ("--jobs", "extract", "concat", "--root", folder / "features")
    text = run(program, "submit", "--dry-run", *grid, cwd=folder)
    assert f"{packages}/fungi/jobs/extract.job" in text
    run(program, "submit", "--dry-run", "--grid", "jobs/audio/grid.toml", "--jobs", "extract", cwd=folder)
    sbatch = folder / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho 7\n")
    sbatch.chmod(0o755)
    run(program, "submit", *grid, cwd=folder, PATH=f"{sbatch.parent}:{os.environ['PATH']}")
    (code,) = (folder / "features" / "code").iterdir()
    for file in ("jobs/common.sh", "jobs/extract.job", "src/fungi/extraction/extract.py", "src/fungi/py.typed"):
        assert (code / file).is_file()
    # The copied job file runs with the copied modules, as on a cluster.
    environ = {"FUNGI_PROJECT": str(code), "FUNGI_PYTHON": str(program.with_name("python")), "FUNGI_ROOT": "features"}
    environ |= {"FUNGI_SPLITS": "test", "FUNGI_FLAGS_EXTRACT": "--block-size 512"}
    run("sh", code / "jobs" / "extract.job", cwd=folder, **environ)
    assert (folder / "features" / "embeddings" / "digits" / "digits-vit" / "test.h5").is_file()


@pytest.mark.release
@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_documents_the_library(tmp_path: Path) -> None:
    run(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path, cwd=ROOT)
    page = (tmp_path / "api/library/index.html").read_text()
    assert 'id="fungi.wrapper.FUNGIWrapper"' in page
    assert "Apache-2.0" in (tmp_path / "changelog/index.html").read_text()


def test_version_and_licence_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest == f"## {citation['version']}, {citation['date-released']}"
    assert citation["version"] == fungi.__version__
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()


def test_every_package_that_is_imported_is_declared() -> None:
    """A package that is installed only as a dependency of another package may be missing in other installations."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + list(chain(*project["optional-dependencies"].values()))
    declared = {re.split(r"[<>=! ]", text)[0].lower() for text in requirements}
    distributions = importlib.metadata.packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for package in {module.partition(".")[0] for module in modules} - {*sys.stdlib_module_names, "fungi"}:
                names = {name.lower().replace("_", "-") for name in distributions.get(package, [package])}
                assert names & declared, f"{path} imports {package}, which pyproject.toml does not name"


def test_the_first_command_in_the_readme_installs_the_package() -> None:
    commands = (line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(("pip ", "make ")))
    assert next(commands).startswith("pip install ")


def test_the_hosted_workflow_calls_targets_of_the_makefile() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    assert {command.removeprefix("make ") for command in commands if command.startswith("make ")} <= targets
    assert ".ci/run" in commands


def test_the_conda_environment_installs_the_pinned_packages() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert {"pip": ["-r requirements.txt", "-e ."]} in environment["dependencies"]


def test_a_container_binds_every_existing_folder_of_the_run_to_its_own_path(tmp_path: Path) -> None:
    for name in ("bin", "code", "features"):
        (tmp_path / name).mkdir()
    apptainer = tmp_path / "bin" / "apptainer"
    apptainer.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    apptainer.chmod(0o755)
    arguments = run(
        ROOT / "jobs/container/python.sh",
        *("-m", "fungi", "list"),
        cwd=tmp_path,
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        CONTAINER_IMAGE="fungi.sif",
        FUNGI_PROJECT=str(tmp_path / "code"),
        FUNGI_ROOT="features",
        FUNGI_DATA_DIR=str(tmp_path / "absent"),
        HF_HOME="",
        TORCH_HOME="",
    ).splitlines()
    existing_folders = (tmp_path, tmp_path / "code", tmp_path / "features")
    assert arguments[arguments.index("--bind") + 1] == ",".join(map(str, existing_folders))
    assert arguments[-5:] == ["fungi.sif", "python", "-m", "fungi", "list"]


def test_the_version_flag_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from fungi.cli.main import main

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fungi {fungi.__version__}\n"
