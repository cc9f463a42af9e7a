"""Write sound files. Each file contains a tone whose pitch depends on the file name."""

import hashlib
from pathlib import Path

import numpy as np
from scipy.io import wavfile


def pitch_of(name: str) -> float:
    """Return the frequency of a tone in Hz."""
    return 200 + 20 * hashlib.sha256(name.encode()).digest()[0]


def write_wave(path: Path, name: str, rate: int = 16_000, seconds: float = 0.25) -> None:
    """Write a 16-bit mono WAV file of half the largest volume. `name` determines the pitch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(rate * seconds)) / rate
    tone = 0.5 * np.sin(2 * np.pi * pitch_of(name) * time)
    wavfile.write(path, rate, (2**15 * tone).astype(np.int16))
