"""Fine-tuning with all labels, with few labels, and on other datasets (spec udi 7.3 to 7.5)."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.base import BACKBONES
from fungi.backbones.checkpoints import read_content
from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.pretraining import epochs
from fungi.pretraining.processes import World
from fungi.pretraining.transfer import fine_tuning
from fungi.pretraining.transfer.augmented_view import AugmentedViews
from fungi.pretraining.transfer.classifier import add_classifier, first_head_layer, layer_groups
from fungi.pretraining.transfer.fine_tune import our_arguments
from fungi.pretraining.transfer.fine_tune_settings import FineTuneSettings
from fungi.pretraining.transfer.train_rows import listed_rows, share_of_rows
from fungi.pretraining.udi.checkpoints import save_checkpoint
from fungi.settings import parse
from fungi.views.image import ImageInput
from tests.pretraining.small import Killed, learner_of, settings
from tests.pretraining.two_processes import two_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder of two classes, dark and bright, with 12 train and 6 test images."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 6), ("val", 3)):
        for label, level in (("dark", 40), ("bright", 200)):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng([number, level]).integers(-30, 30, (32, 32, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(root / split / label / f"{label}-{number}.png")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "checkpoint.pth"
    save_checkpoint(path, learner_of(settings(patch_size=4)), epoch=1, arguments={}, run={})
    return path


def flags(folder: Path, checkpoint: Path, output: Path, **changed) -> list[str]:
    """Return the flags of a short run, in the spelling of the published code."""
    values = {"model": "vit_micro", "finetune": checkpoint, "data_path": folder, "output_dir": output}
    values |= {"epochs": 3, "batch_size": 6, "warmup_epochs": 1, "num_workers": 0, "device": "cpu"} | changed
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def history(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.txt").read_text().splitlines()]


def test_a_network_learns_new_classes_and_reports_its_accuracy(folder, checkpoint, tmp_path) -> None:
    """Images are not mixed, so that few steps are enough."""
    unmixed = {"mixup": 0, "cutmix": 0, "smoothing": 0, "erasing": 0, "layer_decay": 0.9, "classifier_scale": 1}
    arguments = flags(folder, checkpoint, tmp_path, epochs=6, lr=0.003, **unmixed)
    assert COMMANDS["fine-tune"].main(arguments) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    lines = history(tmp_path)
    assert result["results"]["fine-tuned"] == {
        "accuracy": max(line["accuracy"] for line in lines),
        "last-accuracy": lines[-1]["accuracy"],
    }
    assert result["results"]["fine-tuned"]["accuracy"] == 1.0
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    chosen = result["settings"]
    assert (chosen["lr_images"], chosen["layer_decay"]) == (0, 0.9)  # the value of the recipe, and that of the flag


def test_the_best_and_the_last_accuracy_are_reported(folder, checkpoint, tmp_path, monkeypatch) -> None:
    scores = iter([0.2, 0.1, 0.9, 0.3, 0.4, 0.5])  # in each of 3 epochs: of the weights, then of their averages
    monkeypatch.setattr(fine_tuning.FineTuning, "_accuracy", lambda *_: next(scores))
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path, averaging=0.9)) == 0
    results = json.loads((tmp_path / "result.json").read_text())["results"]["fine-tuned"]
    expected = {"accuracy": 0.9, "last-accuracy": 0.4, "averaged-accuracy": 0.5, "averaged-last-accuracy": 0.5}
    assert results == expected


def test_an_interrupted_run_resumes_with_the_same_bits(folder, checkpoint, tmp_path, monkeypatch, capsys) -> None:
    changed = {"averaging": 0.5, "repeats": 3}
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "uninterrupted", **changed)) == 0
    learn = fine_tuning.FineTuning._learn

    def die_in_epoch_2(self, epoch):
        if epoch == 2:
            raise Killed
        return learn(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.FineTuning, "_learn", die_in_epoch_2)
        with pytest.raises(Killed):
            COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "resumed", **changed))
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "resumed", **changed)) == 0
    assert history(tmp_path / "resumed") == history(tmp_path / "uninterrupted")
    uninterrupted, resumed = (
        torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("uninterrupted", "resumed")
    )
    for kind in ("model", "averaged"):
        for name, value in uninterrupted[kind].items():
            assert torch.equal(value, resumed[kind][name]), name
    last_layer = "head.last.weight"
    assert not torch.equal(uninterrupted["model"][last_layer], uninterrupted["averaged"][last_layer])
    assert "averaged-last-accuracy" in capsys.readouterr().out
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "uninterrupted", **changed, lr=0.1)) == 2
    assert "is of a run with lr = 0.001, but this run has 0.1" in capsys.readouterr().err


def test_the_low_shot_recipe_keeps_the_first_layer_of_the_pretraining_head(folder, checkpoint, tmp_path) -> None:
    changed = {"recipe": "low-shot", "train_share": 0.5, "epochs": 1}
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path, **changed)) == 0
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["model"]
    assert {name for name in state if name.startswith("head.")} == {
        *("head.hidden.weight", "head.hidden.bias", "head.last.weight", "head.last.bias")
    }
    assert list(state["head.last.weight"].shape) == [2, 24]


def test_layers_learn_at_rates_that_decay_towards_the_input() -> None:
    """The rate of a layer is 0.55^(depth + 1 - layer)."""
    model = add_classifier(BACKBONES["udi-micro"].build(), 5, drop_path=0.3, hidden=torch.nn.Linear(64, 7))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert float(model.head.last.weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    scaled_model = add_classifier(BACKBONES["udi-micro"].build(), 100, drop_path=0.0, scale=0.001)
    assert float(scaled_model.head.last.weight.detach().std()) == pytest.approx(2e-5, rel=0.1)
    rate_and_decay = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in layer_groups(model, layer_decay=0.55, weight_decay=0.05)
        for parameter in group["params"]
    }
    assert set(rate_and_decay) == set(names.values())
    expected = {
        "cls_token": (0.55**4, 0.0),
        "reg_token": (0.55**4, 0.0),
        "pos_embed": (0.55**4, 0.0),
        "patch_embed.proj.weight": (0.55**4, 0.05),
        "patch_embed.proj.bias": (0.55**4, 0.0),
        "blocks.0.attn.qkv.weight": (0.55**3, 0.05),
        "blocks.0.norm1.weight": (0.55**3, 0.0),
        "blocks.2.mlp.fc2.weight": (0.55, 0.05),
        "norm.weight": (1.0, 0.0),
        "head.hidden.weight": (1.0, 0.05),
        "head.last.weight": (1.0, 0.05),
        "head.last.bias": (1.0, 0.0),
    }
    for name, values in expected.items():
        assert rate_and_decay[name] == pytest.approx(values), name
    drops = [block.drop_path2.drop_prob for block in model.blocks]
    assert drops == pytest.approx([0.0, 0.15, 0.3])
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_delayed_reading_does_not_change_losses(folder, checkpoint, tmp_path, monkeypatch, capsys) -> None:
    """On a GPU, losses are read one step late. A message about a loss still names the step of this loss."""
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "at-once")) == 0
    monkeypatch.setattr(epochs, "steps_ahead", lambda device: 1)
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "late")) == 0
    assert history(tmp_path / "late") == history(tmp_path / "at-once")
    losses = iter([0.5, float("nan"), 0.5, 0.5])
    monkeypatch.setattr(
        fine_tuning.FineTuning, "_loss", lambda self, *_: self.model.head.last.bias.sum() * 0 + next(losses)
    )
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "not-finite")) == 2
    assert "step 1: the loss is nan" in capsys.readouterr().err


@pytest.mark.parametrize("repeats", [1, 3])
def test_rates_follow_the_batch_size_and_the_schedule(repeats, folder, checkpoint, tmp_path, monkeypatch) -> None:
    """--lr is the rate for 512 images. The warm-up starts at 0. Repeated views do not make an epoch longer."""
    rates_of_steps = []
    step = torch.optim.AdamW.step

    def record_rates(self, *arguments, **keywords):
        rates_of_steps.append([(group["lr"], group["lr_scale"]) for group in self.param_groups])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", record_rates)
    changed = {"recipe": "transfer", "repeats": repeats, "lr": 0.512, "layer_decay": 0.5, "epochs": 2, "min_lr": 0.001}
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path, **changed)) == 0
    peaks = [max(rate for rate, _ in groups) for groups in rates_of_steps]
    # 0.512 for 512 images is 0.006 for 6 images. Warm-up: 0, 0.006. Cosine to 0.001: its start, and its middle.
    assert peaks == pytest.approx([0.0, 0.006, 0.006, 0.0035])
    for groups, peak in zip(rates_of_steps, peaks, strict=True):
        for rate, scale in groups:
            assert rate == pytest.approx(peak * scale)


@pytest.mark.parametrize(("recipe", "last"), [("imagenet", 1e-6), ("transfer", 1e-5)])
@pytest.mark.parametrize("peak", [1e-3, 5e-6])
def test_rates_end_at_the_published_values(recipe, last, peak, folder, checkpoint, tmp_path, monkeypatch) -> None:
    """The cosine ends at the last rate of the recipe, or at the peak if the peak is lower (spec udi 7.6)."""
    rates = []
    monkeypatch.setattr(fine_tuning.FineTuning, "_learn", lambda self, epoch: rates.append(self.rates.tolist()) or 1.0)
    monkeypatch.setattr(fine_tuning.FineTuning, "_accuracy", lambda *_: 0.5)
    changed = {"recipe": recipe, "repeats": 1, "lr": peak, "lr_images": 0, "epochs": 4, "warmup_epochs": 0}
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path, **changed)) == 0
    end = min(last, peak)
    expected = [end + 0.5 * (peak - end) * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates[0] == pytest.approx(expected, rel=1e-9)


def test_every_epoch_has_other_views_of_the_same_images(folder, checkpoint, tmp_path) -> None:
    run_settings = FineTuneSettings(
        arch="vit_micro", checkpoint=checkpoint, data_path=folder, batch_size=6, num_workers=0
    )
    train, _ = run_settings.open_rows()
    backbone = run_settings.load_network()
    add_classifier(backbone.model, 2, drop_path=0.0)
    run = fine_tuning.FineTuning(run_settings, backbone, train, train, World(), torch.device("cpu"))
    first, first_again, second = (list(run._batches(epoch)) for epoch in (0, 0, 1))
    for (images, _), (same_images, _) in zip(first, first_again, strict=True):
        assert torch.equal(images, same_images)
    views = {tuple(image.flatten()[:50].tolist()) for images, _ in first for image in images}
    assert len(views) == 12
    assert not any(tuple(image.flatten()[:50].tolist()) in views for images, _ in second for image in images)
    assert sorted(torch.cat([targets for _, targets in second]).tolist()) == [0] * 6 + [1] * 6


@pytest.mark.parametrize("mixed", [False, True])
def test_labels_are_smoothed_once_with_and_without_mixing(mixed) -> None:
    """All images have the same class, so mixing does not change the labels."""
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    mixing = {"mixup": 0.8, "cutmix": 1.0} if mixed else {"mixup": 0.0, "cutmix": 0.0}
    fake_run = SimpleNamespace(
        settings=FineTuneSettings(arch="vit_micro", smoothing=0.3, **mixing),
        backbone=SimpleNamespace(model=SimpleNamespace(num_classes=3)),
        parallel=lambda _: logits,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    targets = torch.ones(4, dtype=torch.int64)
    loss = fine_tuning.FineTuning._loss(fake_run, torch.randn(4, 3, 8, 8), targets)
    smoothed = torch.tensor([0.1, 0.8, 0.1])  # 0.3 / 3 for every class, and 1 - 0.3 more for the class of the images
    assert float(loss) == pytest.approx(float(-(smoothed * logits.log_softmax(1)).sum(1).mean()), rel=1e-5)


def test_repeated_views_of_an_image_differ_and_follow_each_other() -> None:
    views = AugmentedViews(input=ImageInput(size=16, resize=16), repeats=3)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    prepared = [views.prepare(image), views.prepare(image)]
    batch = views.collate(prepared)
    assert batch.shape == (6, 3, 16, 16)
    assert torch.equal(batch[3:], prepared[1])
    assert not torch.equal(batch[0], batch[1])


def test_the_strongest_augmentation_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.data.auto_augment.random.gauss", lambda *_: 20.0)  # beyond the largest magnitude
    # 150 views draw each of the 15 operations about 20 times
    views = AugmentedViews(input=ImageInput(size=16, resize=16), repeats=150)
    assert views.prepare(Image.new("RGB", (20, 24))).shape == (150, 3, 16, 16)


def test_the_first_layer_of_the_pretraining_head_is_read_from_a_checkpoint(checkpoint) -> None:
    layer = first_head_layer(checkpoint)
    expected = learner_of(settings(patch_size=4)).teacher.head[0].mlp[0]
    assert torch.equal(layer.weight, expected.weight)
    assert torch.equal(layer.bias, expected.bias)
    with pytest.raises(FungiError, match="no --checkpoint has none"):
        first_head_layer(None)


def test_a_share_of_rows_has_equal_numbers_per_class_and_depends_only_on_the_seed() -> None:
    targets = np.repeat(np.arange(4, dtype=np.uint32), 50)
    rows = share_of_rows(targets, 0.1, seed=1)
    assert np.bincount(targets[rows]).tolist() == [5, 5, 5, 5]
    assert rows.tolist() == share_of_rows(targets, 0.1, seed=1).tolist()
    assert rows.tolist() != share_of_rows(targets, 0.1, seed=2).tolist()
    assert len(share_of_rows(targets, 1e-6, seed=0)) == 4  # at least one of each class


def test_a_list_of_rows_can_name_images_with_or_without_their_folders(tmp_path) -> None:
    ids = ["train/b/n2_1.JPEG", "train/a/n1_7.JPEG", "train/a/n1_8.JPEG"]
    listing = tmp_path / "1percent.txt"
    listing.write_text("n1_8.JPEG\ntrain/b/n2_1.JPEG\n")
    assert listed_rows(ids, listing).tolist() == [0, 2]
    listing.write_text("n1_8.JPEG\nn9_9.JPEG\n")
    with pytest.raises(FungiError, match=r"1 names that no train image has \(n9_9.JPEG\)"):
        listed_rows(ids, listing)
    with pytest.raises(FungiError, match="there is no file"):
        listed_rows(ids, tmp_path / "none.txt")


def test_the_published_command_is_understood() -> None:
    published = (
        "--data_path images --finetune udi.pth --model vit_small --epochs 200 --batch_size 256 --warmup_epochs 20 "
        "--drop_path 0.1 --lr 0.001 --layer_decay 0.55 --mixup 0.8 --cutmix 1.0 --layer_scale_init_value 0.0 "
        "--disable_rel_pos_bias --abs_pos_emb --use_cls --imagenet_default_mean_and_std"
    )
    run_settings = parse(FineTuneSettings, our_arguments(published.split()), program="fungi fine-tune", description="")
    assert (
        run_settings.recipe_with_flags
        == parse(FineTuneSettings, ["--arch", "vit_small"], program="", description="").recipe_with_flags
    )
    assert run_settings.network == "udi-vits16"
    assert (run_settings.checkpoint, run_settings.data_path) == (Path("udi.pth"), Path("images"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 5}, "--batch-size 5 is odd"),
        ({"batch_size": 8, "repeats": 3}, "is not a multiple of --repeats 3"),
        ({"batch_size": 14}, "12 images can't fill a batch of 14"),
        ({"train_share": 0.5, "train_list": "x"}, "can't be combined"),
        ({"backbone": "udi-micro"}, "name one network"),
        ({"layer_scale_init_value": 0.1}, "no LayerScale"),
        ({"lr": 1e2, "mixup": 0, "cutmix": 0, "weight_decay": 10, "epochs": 10}, "Try a lower --lr"),
    ],
)
def test_the_message_names_the_setting_that_cannot_work(folder, checkpoint, changed, message, tmp_path, capsys) -> None:
    assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path, **changed)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_process(folder, checkpoint, tmp_path) -> None:
    """Each process trains on half of every batch and scores half of the images.

    Mixing and dropped paths are off, because each process draws its own.
    """
    changed = {"averaging": 0.5, "mixup": 0, "cutmix": 0, "drop_path": 0}
    arguments = flags(folder, checkpoint, tmp_path / "two", batch_size=3, **changed)
    with two_processes("fine-tune", *arguments):
        assert COMMANDS["fine-tune"].main(flags(folder, checkpoint, tmp_path / "one", batch_size=6, **changed)) == 0
    of_one, of_two = (read_content(tmp_path / name / "checkpoint.pth") for name in ("one", "two"))
    assert [line["accuracy"] for line in of_one["history"]] == [line["accuracy"] for line in of_two["history"]]
    for part in ("model", "averaged"):
        for name, value in of_one[part].items():
            torch.testing.assert_close(value, of_two[part][name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_run_does_not_resume_with_other_weights(folder, checkpoint, tmp_path, capsys) -> None:
    weights = tmp_path / "weights.pth"
    shutil.copy(checkpoint, weights)
    assert COMMANDS["fine-tune"].main(flags(folder, weights, tmp_path / "run", epochs=1)) == 0
    save_checkpoint(weights, learner_of(settings(patch_size=4, seed=1)), epoch=1, arguments={}, run={})
    assert COMMANDS["fine-tune"].main(flags(folder, weights, tmp_path / "run", epochs=1)) == 2
    assert "is of a run with weights = " in capsys.readouterr().err
