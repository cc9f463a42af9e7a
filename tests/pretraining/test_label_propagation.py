"""Label propagation on DAVIS-2017, compared with loops over patches (spec udi 7.6)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones import loading
from fungi.errors import FungiError
from fungi.evaluators.label_propagation import neighbourhood, propagated_labels
from fungi.pretraining.tokens import last_blocks
from fungi.pretraining.transfer.propagate_labels import PropagateSettings
from fungi.pretraining.transfer.propagate_labels import run as propagate

# Red, green and blue of the objects 0, 1 and 2.
PALETTE = [0, 0, 0, 200, 0, 0, 0, 150, 0]


@pytest.fixture(scope="module")
def backbone():
    return loading.load_backbone("udi-micro", random_init=True)


def write_video(folder: Path, frames: list[np.ndarray], mask: np.ndarray) -> Path:
    """Write a folder of DAVIS with one video, and return the folder."""
    for part in ("JPEGImages/480p/moving", "Annotations/480p/moving", "ImageSets/2017"):
        (folder / part).mkdir(parents=True)
    (folder / "ImageSets/2017/val.txt").write_text("moving\n")
    annotation = Image.fromarray(mask)
    annotation.putpalette(PALETTE)
    annotation.save(folder / "Annotations/480p/moving/00000.png")
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / f"JPEGImages/480p/moving/{number:05d}.jpg", quality=95)
    return folder


def moving_squares() -> tuple[list[np.ndarray], np.ndarray]:
    """Return frames of two textured squares that move over noise, 70 x 100 pixels, and the mask of the first frame."""
    random = np.random.default_rng(3)
    background = random.integers(0, 90, (70, 100, 3), dtype=np.uint8)
    textures = [random.integers(low, high, (30, 30, 3), dtype=np.uint8) for low, high in ((150, 256), (60, 200))]
    frames, mask = [], np.zeros((70, 100), dtype=np.uint8)
    for step in range(4):
        frame = background.copy()
        for label, (texture, top, left, side) in enumerate(zip(textures, (10, 45), (15, 70), (30, 9), strict=True), 1):
            region = slice(top + 2 * step, top + 2 * step + side), slice(left - 4 * step, left - 4 * step + side)
            frame[region] = texture[:side, :side]
            if step == 0:
                mask[region] = label
        frames.append(frame)
    return frames, mask


def bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize `[rows columns c]` by interpolation between the centres of pixels, without antialiasing."""

    def neighbours_and_weights(size: int, new: int) -> list[tuple[int, int, float]]:
        """Return the two old pixels between which each new pixel lies, and the weight of the second."""
        positions = [min(max((i + 0.5) * size / new - 0.5, 0), size - 1) for i in range(new)]
        return [(math.floor(p), min(math.floor(p) + 1, size - 1), p - math.floor(p)) for p in positions]

    values = pixels.astype(np.float64)
    rows = neighbours_and_weights(pixels.shape[0], height)
    columns = neighbours_and_weights(pixels.shape[1], width)
    values = np.stack([values[a] * (1 - t) + values[b] * t for a, b, t in rows])
    return np.stack([values[:, a] * (1 - t) + values[:, b] * t for a, b, t in columns], axis=1)


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with Pillow like the published program, because its rounding decides between two equally near pixels."""
    return np.array(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))


def simple_masks(folder: Path, backbone, *, side: int, previous: int, radius: int, neighbours: int) -> list[np.ndarray]:
    """Return the masks of the published program, by loops over patches in float64."""
    mask = np.array(Image.open(folder / "Annotations/480p/moving/00000.png"))
    labels, history, masks = int(mask.max()) + 1, [], [mask]
    for path in sorted((folder / "JPEGImages/480p/moving").iterdir()):
        pixels = np.array(Image.open(path))
        height, width = side, side * pixels.shape[1] // pixels.shape[0] // 64 * 64
        scaled = np.round(bilinear(pixels, height, width)) / 255
        normal = (scaled - [0.485, 0.456, 0.406]) / [0.228, 0.224, 0.225]  # 0.228 as published, not 0.229
        with torch.no_grad():
            image = torch.from_numpy(normal).permute(2, 0, 1)[None].float()
            tokens = last_blocks(backbone.model, image)[0][0, 2:].double().numpy()
        tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
        rows, columns = height // 4, width // 4
        if not history:
            shares = np.eye(labels)[nearest(mask, rows, columns)].reshape(-1, labels)
        else:
            shares = np.zeros((rows * columns, labels))
            first_recent = max(1, len(history) - previous)
            context = [history[0], *history[first_recent:]]
            for i in range(rows * columns):
                votes = [
                    (math.exp(float(tokens[i] @ keys[j]) / 0.1), values[j])
                    for keys, values in context
                    for j in range(rows * columns)
                    if not radius or max(abs(i // columns - j // columns), abs(i % columns - j % columns)) <= radius
                ]
                best = sorted(votes, key=lambda vote: -vote[0])[:neighbours]
                shares[i] = sum(weight * value for weight, value in best) / sum(weight for weight, _ in best)
            large = bilinear(shares.reshape(rows, columns, labels), 4 * rows, 4 * columns)
            for label in range(labels):
                if large[..., label].max() > 0:
                    large[..., label] -= large[..., label].min()
                    large[..., label] /= large[..., label].max()
            masks.append(nearest(large.argmax(-1), *mask.shape))
        history.append((tokens, shares))
    return masks


@pytest.mark.parametrize("radius", [3, pytest.param(0, marks=pytest.mark.slow)])
def test_masks_equal_a_simple_version_of_the_published_steps(radius, backbone, tmp_path, monkeypatch) -> None:
    davis = write_video(tmp_path / "DAVIS", *moving_squares())
    monkeypatch.setattr(loading, "load_backbone", lambda *_, **__: backbone)
    options = {"shorter_side": 64, "previous": 2, "radius": radius, "neighbours": 4}
    paths = propagate(PropagateSettings(davis=davis, output_dir=tmp_path / "masks", device="cpu", **options))
    expected = simple_masks(davis, backbone, side=64, previous=2, radius=radius, neighbours=4)
    assert [path.name for path in paths] == [f"{number:05d}.png" for number in range(4)]
    for path, mask in zip(paths, expected, strict=True):
        with Image.open(path) as picture:
            assert picture.getpalette()[:9] == PALETTE
            assert np.array_equal(np.array(picture), mask), path.name
    assert set(np.unique(expected[3])) == {0, 1, 2}  # both objects are still there in the last frame


def test_labels_come_from_the_most_similar_patches_nearby() -> None:
    """The expected values come from loops over patches. Patches outside of the neighbourhood do not count."""
    generator = torch.Generator().manual_seed(0)
    frame, context = torch.randn(12, 3, generator=generator), torch.randn(2, 12, 3, generator=generator)
    labels, near = torch.rand(2, 12, 4, generator=generator), neighbourhood(rows=3, columns=4, radius=1)
    shares = propagated_labels(frame, context, labels, near, temperature=0.2, neighbours=3)
    for i in range(12):
        candidates = [
            (float(torch.cosine_similarity(frame[i], context[c, j], dim=0)), labels[c, j])
            for c in range(2)
            for j in range(12)
            if abs(i // 4 - j // 4) <= 1 and abs(i % 4 - j % 4) <= 1
        ]
        best = sorted(candidates, key=lambda candidate: -candidate[0])[:3]
        weights = [math.exp(similarity / 0.2) for similarity, _ in best]
        expected = sum(w * values for w, (_, values) in zip(weights, best, strict=True)) / sum(weights)
        torch.testing.assert_close(shares[i], expected, rtol=1e-4, atol=1e-6)


def test_the_message_names_a_coloured_or_missing_annotation(backbone, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loading, "load_backbone", lambda *_, **__: backbone)
    davis = write_video(tmp_path / "DAVIS", *moving_squares())
    path = davis / "Annotations/480p/moving/00000.png"
    Image.open(path).convert("RGB").save(path)
    settings = PropagateSettings(davis=davis, output_dir=tmp_path / "masks", device="cpu")
    with pytest.raises(FungiError, match="has mode RGB, not numbers of objects"):
        propagate(settings)
    path.unlink()
    with pytest.raises(FungiError, match="there is no file"):
        propagate(settings)
