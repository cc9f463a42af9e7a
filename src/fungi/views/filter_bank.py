"""Log-mel filter bank of a waveform, as in Kaldi (spec audio 2), without torchaudio.

The steps for each frame x `[400]` of the waveform:

1. subtract the mean of the frame;
2. pre-emphasis: `y_i = x_i - 0.97 x_{i-1}`, with `x_{-1} = x_0`;
3. multiply by a Hann window;
4. power spectrum: |FFT|^2 `[257]` of the frame, padded to 512 values;
5. weighted sums with triangles in the mel domain, `mel(f) = 1127 ln(1 + f / 700)`, between 20 and 8000 Hz;
6. logarithm of the sums; a sum below 1.19e-7 counts as 1.19e-7.
"""

from functools import cache
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.data.formats.sounds import SAMPLE_RATE, SHORTEST

FRAME, STEP, PADDED = SHORTEST, 160, 512  # numbers of values: of a frame, between frame starts, of a padded frame
LOW, HIGH, MELS = 20.0, 8000.0, 128  # limits in Hz, and number of triangles
PRE_EMPHASIS = 0.97
FLOOR = 1.1920929e-7  # the epsilon of float32, as in Kaldi


def log_mel(waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames mels"]:
    """Return the log-mel values of the complete frames. Their number is `1 + floor((samples - 400) / 160)`."""
    frames = (waveform - waveform.mean()).unfold(0, FRAME, STEP)  # [frames 400]
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    windowed = (frames - PRE_EMPHASIS * previous) * _window()
    power = torch.fft.rfft(windowed, n=PADDED).abs().square()  # [frames 257]
    return torch.log((power[:, :-1] @ _triangles()).clamp_min(FLOOR))


def cut_or_pad(spectrogram: Float[Tensor, "t mels"], frames: int) -> Float[Tensor, "frames mels"]:
    """Return a spectrogram with `frames` frames. It is cut at its end, or padded with zeros at its end."""
    missing = max(0, frames - len(spectrogram))
    return torch.nn.functional.pad(spectrogram[:frames], (0, 0, 0, missing))


@cache
def _window() -> Float[Tensor, " 400"]:
    return torch.hann_window(FRAME, periodic=False)


@cache
def _triangles() -> Float[Tensor, "256 mels"]:
    """Return the weights of the FFT bins below the Nyquist frequency: triangles of equal width in mel.

    Each triangle begins at the top of the previous triangle and ends at the top of the next triangle.
    """
    edges = torch.linspace(_mel(LOW), _mel(HIGH), MELS + 2, dtype=torch.float64)
    bin_frequencies = torch.arange(PADDED // 2, dtype=torch.float64) * SAMPLE_RATE / PADDED  # in Hz
    mel = 1127 * torch.log1p(bin_frequencies / 700).unsqueeze(1)  # [256 1]
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()


def _mel(frequency: float) -> float:
    return 1127 * log(1 + frequency / 700)
