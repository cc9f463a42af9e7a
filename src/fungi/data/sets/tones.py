"""`tones`: synthetic clips of one second, in eight classes. They are generated when they are read, not recorded.

They serve to try and test audio backbones without a download. Pitch, loudness, duration and background noise vary
between clips, so only the shape in time and frequency shows the class. Accuracies say nothing about real sounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.sounds import SAMPLE_RATE, Waveform
from fungi.runtime.seeds import numpy_generator

SEED = 42
CLIPS_PER_CLASS = {"train": 50, "test": 25}
Signal = np.ndarray
"""Values over time, float64 `[samples]`."""


def _phase(frequency: Signal | float, time: Signal) -> Signal:
    """Return the phase of an oscillation, in radians. frequency: in Hz, constant or one value per point in time."""
    return 2 * np.pi * np.cumsum(np.broadcast_to(frequency, time.shape)) / SAMPLE_RATE


def _with_overtones(time: Signal, pitch: float) -> Signal:
    """Return a tone with the multiples 2 to 8 of its frequency. pitch: frequency in Hz."""
    fundamental = np.sin(_phase(pitch, time))
    return sum((np.sin(_phase(pitch * n, time)) / n for n in range(2, 9)), fundamental)


SIGNALS: dict[str, Callable[[Signal, float, np.random.Generator], Signal]] = {
    "falling": lambda time, pitch, _: np.sin(_phase(4 * pitch * 2 ** (-2 * time / time[-1]), time)),
    "hissing": lambda time, _, random: np.diff(random.standard_normal(len(time) + 1)),
    "plucked": lambda time, pitch, random: _with_overtones(time, pitch) * np.exp(-random.uniform(6, 12) * time),
    "pulsing": lambda time, pitch, random: (
        np.sin(_phase(pitch, time)) * (np.sin(2 * np.pi * random.uniform(4, 9) * time) > 0)
    ),
    "rich": lambda time, pitch, _: _with_overtones(time, pitch),
    "rising": lambda time, pitch, _: np.sin(_phase(pitch * 2 ** (2 * time / time[-1]), time)),
    "steady": lambda time, pitch, _: np.sin(_phase(pitch, time)),
    "trembling": lambda time, pitch, random: np.sin(
        _phase(pitch * (1 + 0.06 * np.sin(2 * np.pi * random.uniform(5, 8) * time)), time)
    ),
}
"""Class name -> function (time in seconds, pitch in Hz, random generator) -> sound."""


@dataclass(frozen=True)
class _Clips:
    """Function: row -> clip. The split and the row determine the clip."""

    split: str

    def __call__(self, row: int) -> Waveform:
        return generate(self.split, row)

    def content(self, row: int) -> bytes:
        """Return no bytes, because the sample id identifies the clip, and rounding differs between CPUs."""
        return b""


def generate(split: str, row: int) -> Waveform:
    """Return the clip of a row: a sound of the row's class, at a random time in one second of noise."""
    random = numpy_generator(SEED, "tones", split, row)
    signal = list(SIGNALS.values())[row % len(SIGNALS)]
    duration = random.uniform(0.4, 0.8)
    time = np.arange(int(duration * SAMPLE_RATE)) / SAMPLE_RATE
    sound = signal(time, random.uniform(200, 900), random)
    # Loudness grows and falls in 10 ms, because a sudden start or end would be a click.
    ramp = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    clip = np.zeros(SAMPLE_RATE)
    start = int(random.uniform(0, 1 - duration) * SAMPLE_RATE)
    amplitude = random.uniform(0.1, 0.5)
    clip[start : start + len(time)] = sound / np.abs(sound).max() * ramp * amplitude
    noise = random.standard_normal(SAMPLE_RATE)  # drawn before its deviation; another order would change all clips
    noise_deviation = 10 ** random.uniform(-3, -1.5)  # 0.001 to 0.03
    clip += noise * noise_deviation
    return clip.clip(-1, 1).astype(np.float32)


def _open(data_dir: Path, split: str) -> Samples:
    rows = np.arange(CLIPS_PER_CLASS[split] * len(SIGNALS))
    return Samples(
        targets=(rows % len(SIGNALS)).astype(np.uint32),
        ids=[f"tones-{SEED}/{split}/{row}" for row in rows],
        load=_Clips(split),
        class_names=tuple(SIGNALS),
    )


register_dataset(
    name="tones",
    title="Synthetic tones (generated, not recorded)",
    classes=len(SIGNALS),
    sizes={split: count * len(SIGNALS) for split, count in CLIPS_PER_CLASS.items()},
    modality="audio",
    open=_open,
    is_in_paper=False,
    input_options={"frames": 128, "mean": -5.84, "deviation": 4.16},
    notes="synthetic: generated when read, needs no download",
)
