"""Jobs with several processes on two nodes of a real SLURM: pretraining and the dense evaluations."""

import json
from pathlib import Path

import pytest

from tests.pretraining.digit_canvases import DETECTOR_FLAGS, write_canvases
from tests.pretraining.small import command_flags, image_folder
from tests.slurm.conftest import UNFINISHED, Cluster, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_job_on_two_nodes_that_runs_out_of_time_resumes(cluster: Cluster, tmp_path: Path) -> None:
    images, output = image_folder(tmp_path / "images", 33), tmp_path / "run"
    flags = command_flags(data_path=images, output_dir=output, batch_size_per_gpu=1, epochs=20, save_minutes=0.001)
    position = flags.index("--dataset")  # this flag and its value are removed: the images come from a folder
    job = cluster.sbatch(
        *("--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/%j.out", "jobs/pretrain_udi.job"),
        *(flags[:position] + flags[position + 2 :]),
        MASTER_ADDR="127.0.0.1",
    )

    def output_of_job() -> str:
        return (tmp_path / f"{job}.out").read_text() if (tmp_path / f"{job}.out").exists() else ""

    def has_checkpoint() -> bool:
        assert cluster.tasks(job)[0]["JobState"] in UNFINISHED, output_of_job()
        return (output / "checkpoint.pth").exists()

    until(has_checkpoint, "a checkpoint")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert cluster.wait(job) == ["COMPLETED"], output_of_job()
    assert cluster.tasks(job)[0]["Restarts"] == "1"
    assert "resumes from" in output_of_job()
    lines = [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(20))


@pytest.mark.parametrize("name", ["detect_coco", "segment_fpn"])
def test_a_dense_evaluation_runs_on_two_nodes(name: str, cluster: Cluster, tmp_path: Path) -> None:
    common = "--backbone digits-vit --blocks 0 1 2 3 --channels 16 --num-workers 0 --device cpu"
    if name == "detect_coco":
        root = write_canvases(tmp_path / "coco", {"train2017": 4, "val2017": 2})
        flags = ["--coco", str(root), *DETECTOR_FLAGS]
    else:
        flags = ["--dataset", "digit-scenes", "--size", "32", "--steps", "2", "--epoch-steps", "2", "--batch-size", "2"]
    job = cluster.sbatch(
        *("--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/%j.out", f"jobs/{name}.job"),
        *(*common.split(), *flags, "--output-dir", str(tmp_path / "run")),
        MASTER_ADDR="127.0.0.1",
    )
    assert cluster.wait(job) == ["COMPLETED"], (tmp_path / f"{job}.out").read_text()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["results"]
