"""Every job file runs to its end on a real SLURM with data of a few rows. The tests submit jobs like users."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT, Cluster
from tests.slurm.toys import write_toys

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
JOB_NAMES = sorted(str(path.relative_to(ROOT / "jobs").with_suffix("")) for path in (ROOT / "jobs").rglob("*.job"))
TWO_FEATURES = "--features embeddings kl"


@dataclass(frozen=True)
class Trial:
    """The way in which a job is tried: its data, more flags of its command, and the jobs whose files it needs.

    splits: splits to extract; each is a task of the array. refusal: the last words of a job that cannot work here.
    """

    data: str = "pictures"
    backbone: str = "digits-vit"
    flags: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    refusal: str = ""


def extraction(*splits: str, data: str = "pictures", backbone: str = "digits-vit") -> Trial:
    """Return the trial of a job that extracts features."""
    return Trial(data, backbone, splits=splits)


def evaluation(command: str, flags: str = TWO_FEATURES) -> Trial:
    """Return the trial of a job that scores features of pictures."""
    return Trial(flags={command: flags}, after=("grads_all_multi",))


def text_evaluation(command: str, flags: str = "") -> Trial:
    """Return the trial of a job that scores features of texts."""
    return Trial("texts", "tiny-bert", {command: f"{TWO_FEATURES} {flags}"}, after=("text/grads_all_multi",))


TRIALS = {
    "projection": Trial(),
    "extract": extraction("train"),
    "grads_all_multi": extraction("train", "test"),
    "grads_deepcluster_multi": extraction("train"),
    "grads_dino_multi": extraction("train"),
    "grads_kl_multi": extraction("train"),
    "grads_simclr_multi": extraction("test"),
    "merge": Trial(splits=("train",), after=("grads_all_multi", "grads_deepcluster_multi")),
    "concat": evaluation("knn", f"{TWO_FEATURES} --k 5"),
    "concat_few_shot": evaluation("knn", f"{TWO_FEATURES} --k 5"),
    "concat_linear": evaluation("linear"),
    "concat_linear_few_shot": evaluation("linear", f"{TWO_FEATURES} --shots 3"),
    "cluster": evaluation("cluster"),
    "analyse": evaluation("analyse"),
    "ablate_projections": Trial(flags={"ablate": "--objective kl --rows 8 --k 3"}),
    "segment": Trial("scenes", flags={"segment": "--input-size 32"}),
    "segment_data_efficient": Trial("scenes", flags={"segment": "--input-size 32 --train-images 4"}),
    "audio/grads_all_multi": extraction("test", data="sounds", backbone="tiny-ssast"),
    "text/grads_all_multi": extraction("train", "test", data="texts", backbone="tiny-bert"),
    "text/in_context": text_evaluation("in-context"),
    "text/concat_ten_shot": text_evaluation("knn", "--k 5"),
    "text/concat_few_shot_stratified": text_evaluation("knn", "--k 5"),
    "retrieval/extract": extraction("train", "test", data="landmarks"),
    "retrieval/grads_dino_multi": extraction("test", data="landmarks"),
    "retrieval/grads_kl_multi": extraction("test", data="landmarks"),
    "retrieval/grads_simclr_multi": extraction("test", data="landmarks"),
    "retrieval/concat": Trial("landmarks", after=("retrieval/extract",)),
    "reproduce/extraction": Trial(),
    "reproduce/evaluation": Trial(after=("reproduce/extraction",)),
    "report": Trial(flags={"report": "--formats markdown"}, after=("concat",)),
    # These jobs verify the published number of rows, which only a real download has.
    **{name: Trial(refusal="Download it") for name in JOB_NAMES if name.startswith("datasets/")},
}
ELSEWHERE = dict.fromkeys(
    ("pretrain_udi", "detect_coco", "segment_fpn"), "tests/slurm/test_pretraining.py runs it on two nodes"
)


def test_every_job_has_a_trial() -> None:
    assert sorted([*TRIALS, *ELSEWHERE]) == JOB_NAMES


def submit(cluster: Cluster, name: str, root: Path, toys: Mapping[str, str], job_ids: Mapping[str, str]) -> str:
    """Submit a job like a user, with its grid in variables, and return its id. job_ids: ids of earlier jobs."""
    trial = TRIALS[name]
    grid = {"FUNGI_ROOT": str(root), "FUNGI_DATA_DIR": str(root / "data"), "FUNGI_ARCHIVES": str(root / "downloads")}
    if not name.startswith(("datasets/", "reproduce/")):
        grid |= {"FUNGI_DATA_DIR": str(root.parent)}
        grid |= {"FUNGI_DATASETS": toys[trial.data], "FUNGI_BACKBONES": trial.backbone}
        grid |= {"FUNGI_SPLITS": " ".join(trial.splits)} if trial.splits else {}
        grid |= {f"FUNGI_FLAGS_{command.upper().replace('-', '_')}": text for command, text in trial.flags.items()}
    if name == "datasets/prepare":
        grid["FUNGI_DATASETS"] = "speech-commands"
    if name.startswith("reproduce/"):
        grid["FUNGI_STEPS"] = str(steps_file(name, root, toys["pictures"]))
    words = [f"--array=0-{max(len(trial.splits), 1) - 1}"] if not name.startswith("datasets/") else []
    if trial.after:
        words += [f"--dependency=afterok:{':'.join(job_ids[job] for job in trial.after)}", "--kill-on-invalid-dep=yes"]
    # --exclusive: each task has its own node, so this machine runs at most two tasks at once.
    output = f"--output={root}/logs/{name.replace('/', '-')}-%j.out"
    return cluster.sbatch("--exclusive", output, *words, f"jobs/{name}.job", **grid)


def steps_file(name: str, root: Path, dataset: str) -> Path:
    """Write the file that `fungi reproduce --submit` writes for its jobs, with toys instead of the paper's data."""
    common = ["--dataset", dataset, "--backbone", "digits-vit", "--root", str(root / "reproduction")]
    step = ["extract", [*common, "--split", "train", "test"], "digits-vit"]
    if name.endswith("evaluation"):
        step = ["knn", common, "digits-vit"]
    path = root / f"steps-{Path(name).stem}.json"
    path.write_text(json.dumps([step]))
    return path


def test_every_job_runs_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    toys, root = write_toys(tmp_path), tmp_path / "features"
    (root / "logs").mkdir(parents=True)
    job_ids: dict[str, str] = {}
    for name in TRIALS:
        job_ids[name] = submit(cluster, name, root, toys, job_ids)
    states = {name: set(cluster.wait(job)) for name, job in job_ids.items()}
    failures = {}
    for name, trial in TRIALS.items():
        log_files = sorted((root / "logs").glob(f"{name.replace('/', '-')}-*"))
        log = log_files[-1].read_text() if log_files else "\n"
        is_as_expected = states[name] == {"FAILED" if trial.refusal else "COMPLETED"} and trial.refusal in log
        if not is_as_expected or "Traceback" in log or "command not found" in log:
            failures[name] = (states[name], log[-1500:])
    assert not failures, "\n".join(f"{name}: {state}\n{log}" for name, (state, log) in failures.items())
    assert (root / "report" / "report.md").is_file()
    assert list((root / "reproduction" / "results").rglob("*.json"))
