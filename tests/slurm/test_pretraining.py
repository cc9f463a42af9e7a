"""Jobs of several processes on a real SLURM, on two nodes: pretraining, and the dense evaluations."""

import json
from pathlib import Path

import pytest

from tests.pretraining.digit_canvases import DETECTOR_FLAGS, write_canvases
from tests.pretraining.small import image_folder, words
from tests.slurm.conftest import UNFINISHED, Cluster, until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_job_on_two_nodes_that_runs_out_of_time_goes_on_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    images, output = image_folder(tmp_path / "images", 33), tmp_path / "run"
    flags = words(data_path=images, output_dir=output, batch_size_per_gpu=1, epochs=20, save_minutes=0.001)
    place = flags.index("--dataset")
    job = cluster.sbatch(
        *("--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/%j.out", "jobs/pretrain_udi.job"),
        *(flags[:place] + flags[place + 2 :]),
        MASTER_ADDR="127.0.0.1",
    )

    def said() -> str:
        return (tmp_path / f"{job}.out").read_text() if (tmp_path / f"{job}.out").exists() else ""

    def under_way() -> bool:
        assert cluster.tasks(job)[0]["JobState"] in UNFINISHED, said()
        return (output / "checkpoint.pth").exists()

    until(under_way, "a checkpoint")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert cluster.wait(job) == ["COMPLETED"], said()
    assert cluster.tasks(job)[0]["Restarts"] == "1"
    assert "resumes from" in said()
    lines = [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(20))


@pytest.mark.parametrize("name", ["detect_coco", "segment_fpn"])
def test_a_dense_evaluation_runs_on_two_nodes(name: str, cluster: Cluster, tmp_path: Path) -> None:
    shared = "--backbone digits-vit --blocks 0 1 2 3 --channels 16 --num-workers 0 --device cpu"
    if name == "detect_coco":
        root = write_canvases(tmp_path / "coco", {"train2017": 4, "val2017": 2})
        flags = ["--coco", str(root), *DETECTOR_FLAGS]
    else:
        flags = ["--dataset", "digit-scenes", "--size", "32", "--steps", "2", "--epoch-steps", "2", "--batch-size", "2"]
    job = cluster.sbatch(
        *("--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/%j.out", f"jobs/{name}.job"),
        *(*shared.split(), *flags, "--output-dir", str(tmp_path / "run")),
        MASTER_ADDR="127.0.0.1",
    )
    assert cluster.wait(job) == ["COMPLETED"], (tmp_path / f"{job}.out").read_text()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["results"]
