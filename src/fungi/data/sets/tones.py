"""`tones`: synthetic one-second clips of eight classes, generated when they are read; they are not recordings.

Use them to try and test audio backbones without a download. Pitch, loudness, duration and background noise vary between
clips, so only the shape in time and frequency shows the class. Accuracies say nothing about real sounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.sounds import SAMPLE_RATE, Waveform
from fungi.runtime.seeds import numpy_generator

SEED = 42
PER_KIND = {"train": 50, "test": 25}
Signal = np.ndarray
"""float64 `[samples]`."""


def _phase(frequency: Signal | float, time: Signal) -> Signal:
    return 2 * np.pi * np.cumsum(np.broadcast_to(frequency, time.shape)) / SAMPLE_RATE


def _rich(time: Signal, pitch: float) -> Signal:
    return sum((np.sin(_phase(pitch * n, time)) / n for n in range(2, 9)), np.sin(_phase(pitch, time)))


KINDS: dict[str, Callable[[Signal, float, np.random.Generator], Signal]] = {
    "falling": lambda time, pitch, _: np.sin(_phase(4 * pitch * 2 ** (-2 * time / time[-1]), time)),
    "hissing": lambda time, _, draw: np.diff(draw.standard_normal(len(time) + 1)),
    "plucked": lambda time, pitch, draw: _rich(time, pitch) * np.exp(-draw.uniform(6, 12) * time),
    "pulsing": lambda time, pitch, draw: (
        np.sin(_phase(pitch, time)) * (np.sin(2 * np.pi * draw.uniform(4, 9) * time) > 0)
    ),
    "rich": lambda time, pitch, _: _rich(time, pitch),
    "rising": lambda time, pitch, _: np.sin(_phase(pitch * 2 ** (2 * time / time[-1]), time)),
    "steady": lambda time, pitch, _: np.sin(_phase(pitch, time)),
    "trembling": lambda time, pitch, draw: np.sin(
        _phase(pitch * (1 + 0.06 * np.sin(2 * np.pi * draw.uniform(5, 8) * time)), time)
    ),
}


@dataclass(frozen=True)
class _Generated:
    """Function: row -> clip. Split and row determine the clip."""

    split: str

    def __call__(self, row: int) -> Waveform:
        return generate(self.split, row)

    def content(self, row: int) -> bytes:
        """Return no bytes. The id identifies a clip, and the last bits of a sine differ between CPUs."""
        return b""


def generate(split: str, row: int) -> Waveform:
    """Return one clip: a sound of the class of the row, at a random time in one second of noise."""
    draw = numpy_generator(SEED, "tones", split, row)
    kind = KINDS[list(KINDS)[row % len(KINDS)]]
    duration = draw.uniform(0.4, 0.8)
    time = np.arange(int(duration * SAMPLE_RATE)) / SAMPLE_RATE
    sound = kind(time, draw.uniform(200, 900), draw)
    ramp = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)  # no click at the edges
    clip = np.zeros(SAMPLE_RATE)
    start = int(draw.uniform(0, 1 - duration) * SAMPLE_RATE)
    clip[start : start + len(time)] = sound / np.abs(sound).max() * ramp * draw.uniform(0.1, 0.5)
    clip += draw.standard_normal(SAMPLE_RATE) * 10 ** draw.uniform(-3, -1.5)
    return clip.clip(-1, 1).astype(np.float32)


def _open(data_dir: Path, split: str) -> Samples:
    rows = np.arange(PER_KIND[split] * len(KINDS))
    return Samples(
        targets=(rows % len(KINDS)).astype(np.uint32),
        ids=[f"tones-{SEED}/{split}/{row}" for row in rows],
        load=_Generated(split),
        class_names=tuple(KINDS),
    )


register_dataset(
    name="tones",
    title="Synthetic tones (generated, not recorded)",
    classes=len(KINDS),
    sizes={split: count * len(KINDS) for split, count in PER_KIND.items()},
    modality="audio",
    open=_open,
    published=False,
    input_options={"frames": 128, "mean": -5.84, "deviation": 4.16},
    notes="synthetic: generated when read, needs no download",
)
