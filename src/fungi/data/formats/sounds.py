"""Read sound files as mono waveforms at 16 kHz. Errors name the file and the sample."""

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
SHORTEST = 400  # number of values in a frame of 25 ms; a shorter clip has no spectrum
RATES = (1_000, 768_000)
"""Lowest and highest accepted sampling rate in Hz. Other rates come from damaged headers, and resampling them would
take gigabytes."""
TRUNCATED = "Reached EOF prematurely"
"""Start of SciPy's warning that a file is shorter than its header states."""

Waveform = Float32[np.ndarray, " samples"]
"""Mono waveform at 16 kHz, with values from -1 to 1."""


@dataclass(frozen=True)
class SoundFiles:
    """Function: row -> waveform of a sound file; ids are paths relative to the folder `root`."""

    root: str
    ids: Sequence[str]

    def __call__(self, row: int) -> Waveform:
        """Return the waveform of a row."""
        return read_wav(Path(self.root) / self.ids[row], self.ids[row])

    def content(self, row: int) -> bytes:
        """Return a digest of the file, without decoding it."""
        return digest_of_file(Path(self.root) / self.ids[row], self.ids[row])


def sound_samples(root: Path, files: Sequence[str], labels: Sequence[int], class_names: Sequence[str]) -> Samples:
    """Return a split of sound files. Their paths are relative to `root`."""
    ids = PackedNames(files)
    targets = np.asarray(labels, dtype=np.uint32)
    return Samples(targets=targets, ids=ids, load=SoundFiles(str(root), ids), class_names=tuple(class_names))


def read_wav(path: Path, sample_id: str) -> Waveform:
    """Return the waveform in a WAV file of integers or floats. Channels are averaged; other rates are resampled.

    Raises MissingFilesError for a missing file, and FungiError for a file that cannot be read, is truncated, has an
    implausible sampling rate, or is shorter than one frame.
    """
    import warnings

    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            # SciPy warns of chunks that contain no sound. Only its warning about a truncated file is an error.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", TRUNCATED, wavfile.WavFileWarning)
            rate, values = wavfile.read(path)
    except FileNotFoundError:
        raise no_such_file(path, sample_id) from None
    except Exception as error:  # damaged files make the reader raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise FungiError(f"sample {sample_id!r}: can't read {path} as WAV ({cause}). Replace the file.") from error
    if not RATES[0] <= rate <= RATES[1]:
        raise FungiError(
            f"sample {sample_id!r}: {path} has a sampling rate of {rate} Hz; {RATES[0]} to {RATES[1]} are accepted."
            " Replace the file."
        )
    waveform = resample(to_unit_range(values), rate)
    if not np.isfinite(waveform).all():
        raise FungiError(f"sample {sample_id!r}: {path} contains values that are not finite. Replace the file.")
    if len(waveform) < SHORTEST:
        raise FungiError(
            f"sample {sample_id!r}: {path} is too short. It has {len(waveform)} values at 16 kHz, but needs at least "
            f"{SHORTEST} (25 ms). Remove this clip."
        )
    return waveform


def to_unit_range(values: Shaped[np.ndarray, " n *channels"]) -> Float64[np.ndarray, " n"]:
    """Convert the integers of a WAV file to float64 from -1 to 1, and average the channels. Floats are not scaled."""
    if values.dtype == np.uint8:  # the only unsigned type in WAV files
        unit = (values.astype(np.float64) - 128) / 128
    elif np.issubdtype(values.dtype, np.integer):
        unit = values / -float(np.iinfo(values.dtype).min)
    else:
        unit = values.astype(np.float64)
    return unit.mean(axis=1) if unit.ndim == 2 else unit


def resample(values: Float[np.ndarray, " n"], rate: int) -> Waveform:
    """Return a waveform at 16 kHz, after a low-pass filter that prevents aliasing.

    rate: sampling rate of `values` in Hz.
    """
    from scipy.signal import resample_poly

    if rate != SAMPLE_RATE and len(values):
        divisor = gcd(SAMPLE_RATE, rate)
        values = resample_poly(values, SAMPLE_RATE // divisor, rate // divisor)
    return values.astype(np.float32)
