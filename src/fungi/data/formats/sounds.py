"""Sound files on disk -> mono waveforms at 16 kHz. What can't be read says which file and which sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Shaped

from fungi.data.base import Samples
from fungi.data.content import digest_of_file, no_such_file
from fungi.data.names import PackedNames
from fungi.errors import FungiError

SAMPLE_RATE = 16_000
SHORTEST = 400  # values: one frame of 25 ms, below which a clip has no spectrum

Waveform = Float32[np.ndarray, " samples"]
"""Mono, 16 kHz, in -1..1."""


@dataclass(frozen=True)
class SoundFiles:
    """Row -> waveform of a sound file below a folder; ids are paths relative to it."""

    root: str
    ids: Sequence[str]

    def __call__(self, row: int) -> Waveform:
        """The waveform of a row."""
        return read_wav(Path(self.root) / self.ids[row], self.ids[row])

    def content(self, row: int) -> bytes:
        """What is in the file, undecoded."""
        return digest_of_file(Path(self.root) / self.ids[row], self.ids[row])


def sound_samples(root: Path, files: Sequence[str], labels: Sequence[int], class_names: Sequence[str]) -> Samples:
    """A split of sound files, given by their paths relative to `root`."""
    ids = PackedNames(files)
    targets = np.asarray(labels, dtype=np.uint32)
    return Samples(targets=targets, ids=ids, load=SoundFiles(str(root), ids), class_names=tuple(class_names))


def read_wav(path: Path, sample_id: str) -> Waveform:
    """The waveform in a WAV file: integers of any width or floats; channels are averaged, other rates resampled.

    MissingFilesError for a file that isn't there; FungiError for one that can't be read or is shorter than one frame.
    """
    import warnings

    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of remarks, which are no sound
            rate, values = wavfile.read(path)
    except FileNotFoundError:
        raise no_such_file(path, sample_id) from None
    except Exception as error:  # damaged files make the reader raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise FungiError(f"sample {sample_id!r}: can't read {path} as WAV ({cause}). Replace the file.") from error
    waveform = resample(to_unit_range(values), rate)
    if not np.isfinite(waveform).all():
        raise FungiError(f"sample {sample_id!r}: {path} holds values that are no numbers. Replace the file.")
    if len(waveform) < SHORTEST:
        raise FungiError(
            f"sample {sample_id!r}: {path} is too short: {len(waveform)} values at 16 kHz, at least {SHORTEST} (25 ms) "
            "are needed. Leave that clip out."
        )
    return waveform


def to_unit_range(values: Shaped[np.ndarray, " n *channels"]) -> Float64[np.ndarray, " n"]:
    """Integers of a WAV file -> float64 in -1..1; floats stay. Channels are averaged."""
    if values.dtype == np.uint8:  # the only unsigned kind
        unit = (values.astype(np.float64) - 128) / 128
    elif np.issubdtype(values.dtype, np.integer):
        unit = values / -float(np.iinfo(values.dtype).min)
    else:
        unit = values.astype(np.float64)
    return unit.mean(axis=1) if unit.ndim == 2 else unit


def resample(values: Float[np.ndarray, " n"], rate: int) -> Waveform:
    """A waveform at 16 kHz, low-pass filtered before samples are dropped."""
    from scipy.signal import resample_poly

    if rate != SAMPLE_RATE and len(values):
        shared = gcd(SAMPLE_RATE, rate)
        values = resample_poly(values, SAMPLE_RATE // shared, rate // shared)
    return values.astype(np.float32)
