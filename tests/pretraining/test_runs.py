"""Runs that are interrupted, split, damaged or misused (spec udi 5, 8)."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fungi.backbones.checkpoints import read_content
from fungi.pretraining.udi import learner as learners
from fungi.pretraining.udi import training
from fungi.pretraining.udi.pretrain import main
from fungi.pretraining.udi.settings import PretrainSettings, our_arguments
from fungi.settings import parse
from tests.pretraining.small import Killed, image_folder, words


def lines(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


def small_run(output: Path, images: Path, **changed) -> list[str]:
    flags = words(data_path=images, output_dir=output, batch_size_per_gpu=4, **changed)
    place = flags.index("--dataset")
    return flags[:place] + flags[place + 2 :]


def interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int, action) -> None:
    """`action` happens while a step is computed."""
    whole = learners.Learner.launch

    def stepped(self, batch, schedule, *, stop=False):
        if schedule.step == step:
            action()
        return whole(self, batch, schedule, stop=stop)

    monkeypatch.setattr(learners.Learner, "launch", stepped)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data") / "train", 13)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Two epochs of three steps, uninterrupted."""
    output = tmp_path_factory.mktemp("whole")
    assert main(small_run(output, images)) == 0
    return output


def same_weights(one: Path, other: Path) -> None:
    first, second = (read_content(folder / "checkpoint.pth") for folder in (one, other))
    for part in ("student", "teacher"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), name
    assert torch.equal(first["udi_loss"]["centering.center"], second["udi_loss"]["centering.center"])


@pytest.mark.slow
def test_a_stopped_run_resumes_with_the_same_bits(whole_run, images, tmp_path, monkeypatch) -> None:
    for step, number in ((1, signal.SIGTERM), (3, signal.SIGUSR1)):
        with monkeypatch.context() as patch:
            interrupted_at(patch, step, lambda number=number: signal.raise_signal(number))
            with pytest.raises(SystemExit) as ended:
                main(small_run(tmp_path, images))
            assert ended.value.code == 128 + number
    assert read_content(tmp_path / "checkpoint.pth")["fungi"]["step"] == 5  # the step after the signal was the last
    assert main(small_run(tmp_path, images)) == 0
    assert lines(tmp_path) == lines(whole_run)
    same_weights(tmp_path, whole_run)


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint(whole_run, images, tmp_path, monkeypatch) -> None:
    """Killed while a step is computed, and then while a checkpoint is written."""

    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        interrupted_at(patch, 4, die)
        with pytest.raises(Killed):
            main(small_run(tmp_path, images, save_minutes=0.001))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda _content, file: (file.write(b"half"), die()))
        with pytest.raises(Killed):
            main(small_run(tmp_path, images))
    assert main(small_run(tmp_path, images)) == 0
    assert lines(tmp_path) == lines(whole_run)
    same_weights(tmp_path, whole_run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "checkpoint0000.pth", "log.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_run_that_was_killed_between_two_files_writes_them_all(written, whole_run, images, tmp_path, monkeypatch):
    """Killed when the first of an epoch's checkpoints is there, when the second is, and in the last epoch."""
    save, left = training.save_checkpoint, [None] * written

    def killed(*arguments, **named) -> None:
        save(*arguments, **named)
        left.pop()
        if not left:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", killed)
        with pytest.raises(Killed):
            main(small_run(tmp_path, images))
    assert main(small_run(tmp_path, images)) == 0
    assert lines(tmp_path) == lines(whole_run)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole_run.iterdir()}


@pytest.mark.slow
def test_views_do_not_depend_on_the_workers(whole_run, images, tmp_path) -> None:
    assert main(small_run(tmp_path, images, num_workers=2)) == 0
    assert lines(tmp_path) == lines(whole_run)


@pytest.mark.slow
def test_a_run_with_means_per_part_keeps_its_split(images, tmp_path, capsys) -> None:
    published = {"profile": "published", "epochs": 1, "warmup_epochs": 0}
    assert main(small_run(tmp_path, images, **published)) == 0
    other = {"accumulate_steps": 2, **published}
    assert main([*small_run(tmp_path, images, **other), "--batch_size_per_gpu", "2"]) == 2
    assert "is of a run with accumulate_steps = 1, but this run has 2" in capsys.readouterr().err


def test_a_run_is_not_continued_with_other_numbers(whole_run, images, capsys) -> None:
    assert main(small_run(whole_run, images, lr=0.1)) == 2
    assert "is of a run with lr = 0.0005, but this run has 0.1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(
    images, tmp_path, monkeypatch, capsys
) -> None:
    whole = learners.Learner.launch

    def poisoned(self, batch, schedule, *, stop=False):
        if schedule.step == 4:
            self.student.backbone.norm1.weight.data[0] = float("inf")
        return whole(self, batch, schedule, stop=stop)

    monkeypatch.setattr(learners.Learner, "launch", poisoned)
    assert main(small_run(tmp_path, images)) == 2
    assert "step 4: the loss is nan" in capsys.readouterr().err
    content = read_content(tmp_path / "checkpoint.pth")
    assert content["fungi"]["step"] == 3
    assert all(bool(value.isfinite().all()) for value in content["student"].values())


@pytest.mark.slow
def test_collapse_is_logged_during_training(images, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(training.logger, "propagate", True)
    monkeypatch.setattr("fungi.runtime.log.configure", lambda verbose=False: None)
    flags = small_run(tmp_path, images, warmup_teacher_temp=50.0, teacher_temp=50.0)
    assert main(flags) == 0
    assert "epoch 1: the teacher's predictions are uniform" in caplog.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size_per_gpu": 14}, "13 images can't fill a batch of 14"),
        ({"batch_size_per_gpu": 4, "accumulate_steps": 4}, "13 images can't fill a batch of 16"),
        ({"local_crops_size": 20}, "--local-crops-size 20 is not a multiple of --patch-size 8"),
        ({"global_sampling_window_size": 9}, "9 is too large: a global crop has 4 x 4 tokens"),
        ({"include_patch": False}, "needs --number-cls-token 1"),
        ({"arch": "vit_large"}, "vit_large"),
        ({"global_crops_scale": (0.5, 0.2)}, "first the smaller number"),
        ({"epochs": 0}, "--epochs has to be at least 1"),
    ],
)
def test_what_can_not_work_is_named(changed, said, images, tmp_path, capsys) -> None:
    flags = words(data_path=images, output_dir=tmp_path, **changed)
    place = flags.index("--dataset")
    assert main(flags[:place] + flags[place + 2 :]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"local_crops_number": 0},
        {"local_crops_number": 0, "local_crops_size": 7, "local_sampling_window_size": 9},
        {"epochs": 1, "warmup_epochs": 10, "warmup_teacher_temp_epochs": 30, "freeze_last_layer": 5},
        {"batch_size_per_gpu": 5},  # does not divide 13 images
        {"global_sampling_window_size": 4, "batch_size_per_gpu": 1, "epochs": 1},  # one sample, one image
        {"optimizer": "lars", "use_bn_in_head": True},
        {"profile": "published", "coords": "center", "target_mix": "probs"},
    ],
)
def test_unusual_runs_work(changed, images, tmp_path) -> None:
    assert main(small_run(tmp_path, images) + words_of(changed)) == 0
    assert all(value == value for line in lines(tmp_path) for value in line.values())


def words_of(changed) -> list[str]:
    return [word for name, value in changed.items() for word in (f"--{name}", str(value).lower())]


def test_images_of_one_pixel_are_images(tmp_path) -> None:
    folder = image_folder(tmp_path / "tiny", 4, size=(1, 1))
    assert main(small_run(tmp_path / "out", folder, epochs=1)) == 0


def test_a_folder_without_images_is_named(tmp_path, capsys) -> None:
    for folder, said in ((tmp_path / "none", "there is no folder"), (tmp_path, "there is no image in")):
        assert main(small_run(tmp_path / "out", folder)) == 2
        assert said in capsys.readouterr().err


def test_an_unreadable_image_is_named(tmp_path, capsys) -> None:
    folder = image_folder(tmp_path / "images", 4)
    (folder / "class" / "002.png").write_bytes(b"no image")
    assert main(small_run(tmp_path / "out", folder)) == 2
    assert "002.png" in capsys.readouterr().err


def test_the_published_command_is_understood() -> None:
    published = (
        "--data_path images --output_dir out --arch vit_small --teacher_temp 0.07 --warmup_teacher_temp_epochs 30 "
        "--warmup_epochs 10 --local_crops_number 10 --norm_last_layer false --epochs 300 --use_fp16=true"
    )
    made = parse(PretrainSettings, our_arguments(published.split()), program="fungi pretrain", description="")
    assert (made.local_crops_number, made.norm_last_layer, made.use_fp16, made.epochs) == (10, False, True, 300)
    assert (made.batch_size_per_gpu, made.out_dim, made.lr, made.drop_path_rate) == (128, 65536, 0.0005, 0.1)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(images, tmp_path) -> None:
    """gloo, with the same batch of four images; the optimiser is SGD, whose steps do not amplify rounding."""
    shared = {"optimizer": "sgd", "drop_path_rate": 0.3, "lr": 5.0}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fungi", "pretrain"]
    flags = [*small_run(tmp_path / "two", images, **shared), "--batch_size_per_gpu", "2"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command + flags, env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert main(small_run(tmp_path / "one", images, **shared)) == 0
    assert [process.wait(300) for process in running] == [0, 0]
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)
    first, second = (read_content(tmp_path / name / "checkpoint.pth")["student"] for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-5, msg=name)
