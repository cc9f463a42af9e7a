"""Training a semantic FPN on datasets with masks (spec udi 7.6)."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.checkpoints import read_content
from fungi.commands import COMMANDS
from fungi.data.base import VOID, MaskRules, Samples
from fungi.data.sets import digit_scenes
from fungi.errors import UnreadableItemError
from fungi.pretraining import epochs
from fungi.pretraining.dense.scenes import SCALES, FullScenes, TrainScenes, image_and_mask
from fungi.pretraining.dense.segmentation import Segmentation, outputs_of_values, trained_classes
from fungi.pretraining.dense.semantic_head import HEAD_CHANNELS, SemanticFpn
from fungi.pretraining.dense.settings import SegmentFpnSettings
from fungi.views.image import ImageInput
from tests.pretraining.small import Killed
from tests.pretraining.two_processes import sgd_without_dropout, two_processes

SMALL = "--dataset digit-scenes --backbone digits-vit --blocks 0 1 2 3 --channels 16 --size 32 --device cpu"


def flags(output: Path, steps: int, epoch_steps: int, *more: str) -> list[str]:
    """Return the flags of a small run with batches of four images."""
    schedule = ["--steps", str(steps), "--epoch-steps", str(epoch_steps), "--warmup-steps", "2", "--num-workers", "0"]
    return [*SMALL.split(), *schedule, "--batch-size", "4", "--output-dir", str(output), *more]


def samples(*shapes: tuple[int, int], classes: int = 3) -> Samples:
    """Return images with random masks. The red channel of a pixel is 80 times its class."""
    masks = [np.random.default_rng(row).integers(0, classes, shape, dtype=np.uint8) for row, shape in enumerate(shapes)]
    return Samples(
        targets=np.zeros(len(shapes), dtype=np.uint32),
        ids=[f"scene {row}" for row in range(len(shapes))],
        load=lambda row: Image.fromarray(np.stack([80 * masks[row]] * 3, axis=-1)),
        mask=lambda row: masks[row],
    )


def test_only_scored_classes_are_trained_and_other_values_are_void() -> None:
    rules = MaskRules(ignored=0, unscored=(0,))
    assert trained_classes(4, rules) == [1, 2, 3]
    outputs = outputs_of_values([1, 2, 3], rules)
    assert outputs[:4].tolist() == [VOID, 0, 1, 2]
    assert (outputs[4:] == VOID).all()
    assert outputs_of_values([0, 1], MaskRules())[:3].tolist() == [0, 1, VOID]
    assert outputs_of_values([0, 1, 2], MaskRules(ignored=1))[:3].tolist() == [0, VOID, 2]


def test_a_crop_depends_only_on_epoch_and_row() -> None:
    scenes = TrainScenes(samples((40, 60), (90, 30)), 32, seed=0)
    crops = {}
    for epoch in range(3):
        for row in range(2):
            image, mask = scenes[epoch, row]
            assert (image.shape, mask.shape) == ((3, 32, 32), (1, 32, 32))
            assert torch.equal(image, scenes[epoch, row][0])
            crops[epoch, row] = image
    assert len({tuple(image.flatten().tolist()) for image in crops.values()}) == 6


def test_image_and_mask_are_cropped_and_mirrored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without changes of scale and colour, the value of a pixel still shows its class."""
    from torchvision.transforms import v2

    monkeypatch.setattr("fungi.pretraining.dense.scenes.SCALES", (1.0, 1.0))
    monkeypatch.setattr(v2, "RandomPhotometricDistort", v2.Identity)
    scenes = TrainScenes(samples((32, 50)), 32, seed=0)
    for epoch in range(5):
        image, mask = scenes[epoch, 0]
        assert torch.equal(image[:1], 80 * mask)


def test_small_images_are_padded_with_void(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fungi.pretraining.dense.scenes.SCALES", (0.5, 0.5))
    _, mask = TrainScenes(samples((40, 40)), 32, seed=0)[0, 0]
    assert int((mask == VOID).sum()) == 32 * 32 - 16 * 16


def test_test_images_are_resized_and_their_masks_are_not() -> None:
    scenes = FullScenes(samples((40, 60), (30, 300)), 20)
    image, mask = scenes[0]
    assert (tuple(image.shape), tuple(mask.shape)) == ((3, 20, 30), (40, 60))
    image, mask = scenes[1]  # the longer side is at most four times 20
    assert (tuple(image.shape), tuple(mask.shape)) == ((3, 8, 80), (30, 300))


def test_the_message_names_an_image_whose_mask_has_another_size() -> None:
    wrong = Samples(
        targets=np.zeros(1, dtype=np.uint32),
        ids=["a.jpg"],
        load=lambda row: Image.new("RGB", (4, 6)),
        mask=lambda row: np.zeros((5, 4), np.uint8),
    )
    with pytest.raises(UnreadableItemError, match=r"image a\.jpg and its mask have different sizes"):
        image_and_mask(wrong, 0)


def test_logits_have_the_resolution_of_the_finest_map() -> None:
    settings = SegmentFpnSettings(backbone="digits-vit", blocks=(0, 1, 2, 3), channels=8)
    model = SemanticFpn(settings.load_network(), 5, settings)
    assert model(torch.randn(2, 3, 32, 48)).shape == (2, 5, 32, 48)  # stride 1: a patch of 4 pixels has 4 x 4 cells
    settings = SegmentFpnSettings(backbone="udi-vitt16", random_init=True, channels=8)
    model = SemanticFpn(settings.load_network(), 5, settings)
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 5, 16, 24)


@pytest.mark.slow
def test_scenes_of_digits_are_segmented_after_little_training(tmp_path: Path, monkeypatch) -> None:
    """Measured: an mIoU of 0.14 for 40 test scenes. If every pixel is predicted as background, the mIoU is 0.08."""
    monkeypatch.setitem(digit_scenes.SCENES, "test", 40)
    assert COMMANDS["segment-fpn"].main(flags(tmp_path, 60, 60, "--lr", "2e-3")) == 0
    results = json.loads((tmp_path / "result.json").read_text())["results"]
    assert set(results) == {"mIoU", "pixel-accuracy"}
    assert results["mIoU"] > 0.1


@pytest.mark.slow
def test_an_interrupted_run_resumes_with_the_same_bits(tmp_path: Path, monkeypatch) -> None:
    learn = epochs.EpochTraining._learn

    def die_in_epoch_1(self, epoch: int) -> float:
        if epoch == 1:
            raise Killed
        return learn(self, epoch)

    monkeypatch.setattr("fungi.pretraining.dense.segmentation.Segmentation.scores", lambda self: {"mIoU": 0.5})
    assert COMMANDS["segment-fpn"].main(flags(tmp_path / "uninterrupted", 6, 3)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(epochs.EpochTraining, "_learn", die_in_epoch_1)
        with pytest.raises(Killed):
            COMMANDS["segment-fpn"].main(flags(tmp_path / "resumed", 6, 3))
    assert COMMANDS["segment-fpn"].main(flags(tmp_path / "resumed", 6, 3)) == 0
    uninterrupted, resumed = (
        torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("uninterrupted", "resumed")
    )
    assert uninterrupted["history"] == resumed["history"]
    for name, value in uninterrupted["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    """The processes share batch normalisation and the mean over labelled pixels, and each scores half of the images.

    The tolerance allows sums in another order. It does not allow statistics or means of pixels of a single process.
    """
    common = ["--lr", "0.1", "--drop-path", "0"]
    of_two = flags(tmp_path / "two", 2, 2, *common, "--batch-size", "2")
    with two_processes("segment-fpn", *of_two, simple=True), sgd_without_dropout():
        assert COMMANDS["segment-fpn"].main(flags(tmp_path / "one", 2, 2, *common)) == 0
    of_one, of_two = (read_content(tmp_path / name / "checkpoint.pth") for name in ("one", "two"))
    assert of_one["identity"]["batch"] == of_two["identity"]["batch"] == 4
    assert of_one["history"][0] == pytest.approx(of_two["history"][0], rel=1e-3)
    for name, value in of_one["model"].items():
        torch.testing.assert_close(value, of_two["model"][name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset", "digits"], "dataset 'digits' has no masks"),
        (["--steps", "7"], "--steps 7 is not a multiple of --epoch-steps 2"),
        (["--batch-size", "1"], "--batch-size"),
    ],
)
def test_impossible_settings_are_refused(more: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert COMMANDS["segment-fpn"].main(flags(tmp_path, 4, 2, *more)) == 2
    assert message in capsys.readouterr().err


def test_the_default_settings_are_the_published_settings() -> None:
    """The published settings are in spec udi 7.6."""
    settings = SegmentFpnSettings(arch="vit_small")
    assert settings.blocks == (2, 5, 8, 11)
    assert (settings.steps, settings.batch_size, settings.warmup_steps) == (40_000, 4, 1500)
    assert (settings.lr, settings.weight_decay, settings.drop_path) == (6e-5, 0.01, 0.1)
    assert (settings.size, settings.channels, HEAD_CHANNELS, SCALES) == (512, 256, 128, (0.5, 2.0))


def test_a_crop_with_almost_only_one_class_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The halves of the image have different classes, and one sixth of all crops have enough of both."""
    monkeypatch.setattr("fungi.pretraining.dense.scenes.SCALES", (1.0, 1.0))
    halves = np.repeat(np.array([[0] * 64 + [1] * 64], dtype=np.uint8), 32, axis=0)
    scene = Samples(
        targets=np.zeros(1, dtype=np.uint32),
        ids=["halves"],
        load=lambda row: Image.new("RGB", (128, 32)),
        mask=lambda row: halves,
    )
    scenes = TrainScenes(scene, 32, seed=0)
    shares = [scenes[epoch, 0][1].float().mean().item() for epoch in range(60)]
    assert sum(0.25 < share < 0.75 for share in shares) >= 42  # 31 if every crop with both classes were accepted


def test_logits_have_the_size_of_the_image_without_its_padding() -> None:
    sizes = []

    def model(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(pixels.shape[-2:]))
        return pixels[:, :2, ::4, ::4]

    run = SimpleNamespace(
        statistics=ImageInput(size=32, resize=32).statistics,
        multiple=8,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    logits = Segmentation._logits(run, model, torch.zeros(1, 3, 20, 33, dtype=torch.uint8))
    assert sizes == [(24, 40)]
    assert logits.shape == (1, 2, 20, 33)
