"""Runs of pretraining that are interrupted, divided among processes, or given invalid input (spec udi 5, 8)."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch

from fungi.backbones.checkpoints import read_content
from fungi.pretraining.udi import learner as learners
from fungi.pretraining.udi import training
from fungi.pretraining.udi.pretrain import main
from fungi.pretraining.udi.settings import PretrainSettings, our_arguments
from fungi.settings import parse
from tests.pretraining.small import Killed, command_flags, image_folder
from tests.pretraining.two_processes import two_processes


def log_lines(folder: Path) -> list[dict[str, float]]:
    """Return the lines of the log without their speeds."""
    entries = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name != "images_per_second"} for entry in entries]


def without_dataset(flags: list[str]) -> list[str]:
    """Return the flags without --dataset and its value, because the images come from a folder."""
    position = flags.index("--dataset")
    return flags[:position] + flags[position + 2 :]


def small_run(output: Path, images: Path, **changed) -> list[str]:
    """Return the flags of a small run on a folder of images, with batches of four images."""
    return without_dataset(command_flags(data_path=images, output_dir=output, batch_size_per_gpu=4, **changed))


def act_in_step(monkeypatch: pytest.MonkeyPatch, step: int, action) -> None:
    """Call `action` at the start of a step."""
    launch = learners.Learner.launch

    def launch_with_action(self, batch, schedule, *, stop=False):
        if schedule.step == step:
            action()
        return launch(self, batch, schedule, stop=stop)

    monkeypatch.setattr(learners.Learner, "launch", launch_with_action)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("data") / "train", 13)


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Run two epochs of three steps, and return the folder."""
    output = tmp_path_factory.mktemp("uninterrupted")
    assert main(small_run(output, images)) == 0
    return output


def assert_same_weights(folder: Path, other_folder: Path) -> None:
    """Assert that the checkpoints in two folders have equal networks and centres."""
    first, second = (read_content(path / "checkpoint.pth") for path in (folder, other_folder))
    for part in ("student", "teacher"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), name
    assert torch.equal(first["udi_loss"]["centering.center"], second["udi_loss"]["centering.center"])


@pytest.mark.slow
def test_a_stopped_run_resumes_with_the_same_bits(uninterrupted_run, images, tmp_path, monkeypatch) -> None:
    for step, number in ((1, signal.SIGTERM), (3, signal.SIGUSR1)):
        with monkeypatch.context() as patch:
            act_in_step(patch, step, lambda number=number: signal.raise_signal(number))
            with pytest.raises(SystemExit) as exit_info:
                main(small_run(tmp_path, images))
            assert exit_info.value.code == 128 + number
    assert read_content(tmp_path / "checkpoint.pth")["fungi"]["step"] == 5  # a run stops after the step of the signal
    assert main(small_run(tmp_path, images)) == 0
    assert log_lines(tmp_path) == log_lines(uninterrupted_run)
    assert_same_weights(tmp_path, uninterrupted_run)


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint(uninterrupted_run, images, tmp_path, monkeypatch) -> None:
    """The run is killed in a step, and then while it writes a checkpoint."""

    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        act_in_step(patch, 4, die)
        with pytest.raises(Killed):
            main(small_run(tmp_path, images, save_minutes=0.001))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda _content, file: (file.write(b"half"), die()))
        with pytest.raises(Killed):
            main(small_run(tmp_path, images))
    assert main(small_run(tmp_path, images)) == 0
    assert log_lines(tmp_path) == log_lines(uninterrupted_run)
    assert_same_weights(tmp_path, uninterrupted_run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "checkpoint0000.pth", "log.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_run_that_was_killed_between_two_checkpoints_writes_both(
    count, uninterrupted_run, images, tmp_path, monkeypatch
):
    """The run dies after `count` files: after the first or second file of epoch 1, or in epoch 2."""
    save, saved_files = training.save_checkpoint, []

    def save_and_die(*arguments, **keywords) -> None:
        save(*arguments, **keywords)
        saved_files.append(arguments)
        if len(saved_files) == count:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            main(small_run(tmp_path, images))
    assert main(small_run(tmp_path, images)) == 0
    assert log_lines(tmp_path) == log_lines(uninterrupted_run)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in uninterrupted_run.iterdir()}


@pytest.mark.slow
def test_views_do_not_depend_on_the_workers(uninterrupted_run, images, tmp_path) -> None:
    assert main(small_run(tmp_path, images, num_workers=2)) == 0
    assert log_lines(tmp_path) == log_lines(uninterrupted_run)


@pytest.mark.slow
def test_a_run_with_means_per_part_of_a_batch_does_not_resume_with_other_parts(images, tmp_path, capsys) -> None:
    published = {"profile": "published", "epochs": 1, "warmup_epochs": 0}
    assert main(small_run(tmp_path, images, **published)) == 0
    other = {"accumulate_steps": 2, **published}
    assert main([*small_run(tmp_path, images, **other), "--batch_size_per_gpu", "2"]) == 2
    assert "is of a run with accumulate_steps = 1, but this run has 2" in capsys.readouterr().err


def test_a_run_does_not_resume_with_other_settings(uninterrupted_run, images, capsys) -> None:
    assert main(small_run(uninterrupted_run, images, lr=0.1)) == 2
    assert "is of a run with lr = 0.0005, but this run has 0.1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(
    images, tmp_path, monkeypatch, capsys
) -> None:
    launch = learners.Learner.launch

    def launch_with_damage(self, batch, schedule, *, stop=False):
        if schedule.step == 4:
            self.student.backbone.norm1.weight.data[0] = float("inf")
        return launch(self, batch, schedule, stop=stop)

    monkeypatch.setattr(learners.Learner, "launch", launch_with_damage)
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
    ("changed", "message"),
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
def test_the_message_names_the_setting_that_cannot_work(changed, message, images, tmp_path, capsys) -> None:
    flags = without_dataset(command_flags(data_path=images, output_dir=tmp_path, **changed))
    assert main(flags) == 2
    assert message in capsys.readouterr().err
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
def test_runs_with_unusual_settings_have_finite_losses(changed, images, tmp_path) -> None:
    flags = [word for name, value in changed.items() for word in (f"--{name}", str(value).lower())]
    assert main(small_run(tmp_path, images) + flags) == 0
    assert all(math.isfinite(value) for line in log_lines(tmp_path) for value in line.values())


def test_images_of_one_pixel_can_be_used(tmp_path) -> None:
    folder = image_folder(tmp_path / "tiny", 4, size=(1, 1))
    assert main(small_run(tmp_path / "out", folder, epochs=1)) == 0


def test_the_message_names_a_folder_without_images(tmp_path, capsys) -> None:
    for folder, message in ((tmp_path / "none", "there is no folder"), (tmp_path, "there is no image in")):
        assert main(small_run(tmp_path / "out", folder)) == 2
        assert message in capsys.readouterr().err


def test_the_message_names_an_unreadable_image(tmp_path, capsys) -> None:
    folder = image_folder(tmp_path / "images", 4)
    (folder / "class" / "002.png").write_bytes(b"not an image")
    assert main(small_run(tmp_path / "out", folder)) == 2
    assert "002.png" in capsys.readouterr().err


def test_the_published_command_is_understood() -> None:
    published = (
        "--data_path images --output_dir out --arch vit_small --teacher_temp 0.07 --warmup_teacher_temp_epochs 30 "
        "--warmup_epochs 10 --local_crops_number 10 --norm_last_layer false --epochs 300 --use_fp16=true"
    )
    run_settings = parse(PretrainSettings, our_arguments(published.split()), program="fungi pretrain", description="")
    assert (run_settings.local_crops_number, run_settings.norm_last_layer) == (10, False)
    assert (run_settings.use_fp16, run_settings.epochs) == (True, 300)
    defaults = (run_settings.batch_size_per_gpu, run_settings.out_dim, run_settings.lr, run_settings.drop_path_rate)
    assert defaults == (128, 65536, 0.0005, 0.1)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_process(images, tmp_path) -> None:
    """The processes share each batch of four images. The optimizer is SGD, because AdamW amplifies rounding."""
    changed = {"optimizer": "sgd", "drop_path_rate": 0.3, "lr": 5.0}
    flags = [*small_run(tmp_path / "two", images, **changed), "--batch_size_per_gpu", "2"]
    with two_processes("pretrain", *flags):
        assert main(small_run(tmp_path / "one", images, **changed)) == 0
    for line, line_of_two in zip(log_lines(tmp_path / "one"), log_lines(tmp_path / "two"), strict=True):
        assert line == pytest.approx(line_of_two, rel=1e-4, abs=1e-5)
    first, second = (read_content(tmp_path / name / "checkpoint.pth")["student"] for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-5, msg=name)
