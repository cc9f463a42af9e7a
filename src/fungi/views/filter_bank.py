"""Log-mel filter bank of a waveform, by Kaldi's recipe (spec audio 2), without torchaudio.

A frame x `[400]` of the waveform, its mean taken away, is pre-emphasised, `y_i = x_i - 0.97 x_{i-1}` with
`x_{-1} = x_0`, and multiplied by a Hann window; |FFT|^2 `[257]` of the frame padded to 512 is weighed by triangles in
the mel domain, `mel(f) = 1127 ln(1 + f / 700)`, between 20 and 8000 Hz; the logarithm of that, at least of 1.19e-7, is
the value.
"""

from functools import cache
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.data.formats.sounds import SAMPLE_RATE, SHORTEST

FRAME, STEP, PADDED = SHORTEST, 160, 512
LOW, HIGH, MELS = 20.0, 8000.0, 128
PRE_EMPHASIS = 0.97
FLOOR = 1.1920929e-7  # float32's epsilon, as in Kaldi


def log_mel(waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames mels"]:
    """Return the log-mel values of the complete frames, `1 + floor((n - 400) / 160)` in number."""
    frames = (waveform - waveform.mean()).unfold(0, FRAME, STEP)  # [frames 400]
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    windowed = (frames - PRE_EMPHASIS * before) * _window()
    power = torch.fft.rfft(windowed, n=PADDED).abs().square()  # [frames 257]
    return torch.log((power[:, :-1] @ _triangles()).clamp_min(FLOOR))


def fitted(spectrogram: Float[Tensor, "t mels"], frames: int) -> Float[Tensor, "frames mels"]:
    """Cut the spectrogram at its end, or pad it there with zeros, to `frames` frames."""
    short = max(0, frames - len(spectrogram))
    return torch.nn.functional.pad(spectrogram[:frames], (0, 0, 0, short))


@cache
def _window() -> Float[Tensor, " 400"]:
    return torch.hann_window(FRAME, periodic=False)


@cache
def _triangles() -> Float[Tensor, "256 mels"]:
    """Weights of the FFT bins below Nyquist's: triangles of equal width in mel, from one top to the next but one."""
    edges = torch.linspace(_mel(LOW), _mel(HIGH), MELS + 2, dtype=torch.float64)
    bins = torch.arange(PADDED // 2, dtype=torch.float64) * SAMPLE_RATE / PADDED
    mel = 1127 * torch.log1p(bins / 700).unsqueeze(1)  # [256 1]
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()


def _mel(frequency: float) -> float:
    return 1127 * log(1 + frequency / 700)
