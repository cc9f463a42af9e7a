"""The views of a sound: its spectrogram, and copies with noise that are shifted in time (spec audio 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fungi.errors import FungiError
from fungi.views.filter_bank import cut_or_pad, log_mel
from fungi.views.sound import SoundInput


class _SpectrogramViews:
    """Base class of the views of sounds. The class computes, stacks and normalises spectrograms."""

    input: SoundInput

    @property
    def identity(self) -> str:
        """Text that is equal for generators of the same views."""
        return repr(self)

    def spectrogram(self, item: Any) -> Float[Tensor, "frames mels"]:
        """Return the log-mel values of a mono waveform at 16 kHz, before normalisation.

        Raises FungiError if the item is not a waveform.
        """
        if not isinstance(item, np.ndarray) or item.ndim != 1:
            raise FungiError(
                f"a mono waveform was expected, found a {type(item).__name__}. Does the dataset contain sounds?"
            )
        return cut_or_pad(log_mel(torch.from_numpy(item)), self.input.frames)

    def collate(self, prepared: Sequence[Float[Tensor, "v frames mels"]]) -> Float[Tensor, "b v frames mels"]:
        """Stack a batch."""
        return torch.stack(list(prepared))

    def render(self, batch: Float[Tensor, "b v frames mels"]) -> Float[Tensor, "m frames mels"]:
        """Normalise the views: `[b v frames mels] -> [b*v frames mels]`."""
        return (batch.flatten(0, 1) - self.input.mean) / (2 * self.input.deviation)


@dataclass(frozen=True, kw_only=True)
class WholeClip(_SpectrogramViews):
    """One view: the unchanged clip."""

    input: SoundInput

    kind = "plain"
    n_views = 1

    def prepare(self, item: Any) -> Float[Tensor, "1 frames mels"]:
        """Return the spectrogram of a waveform."""
        return self.spectrogram(item).unsqueeze(0)


@dataclass(frozen=True, kw_only=True)
class NoisyShifts(_SpectrogramViews):
    """Copies of a clip with noise, shifted circularly in time. The unchanged clip is not a view.

    noise: largest noise. The noise of a value is x1 * x2 * `noise`. Each value has its own x1, and all values of a view
        have the same x2. Both x1 and x2 are uniform random numbers from 0 to 1.
    shift: the shift in frames is a random integer from `-shift` to `shift - 1`.
    skipped: number of random copies that are drawn and dropped before the first view.
    stream: see `HasStream`.
    """

    input: SoundInput
    n_views: int = 16
    noise: float = 0.1
    shift: int = 10
    stream: str = ""
    skipped: int = 0

    kind = "noisy-shifts"

    def __post_init__(self) -> None:
        if self.n_views < 2:
            raise FungiError(f"{self.n_views} views per clip can't attract each other: n_views has to be at least 2.")
        if self.noise < 0:
            raise FungiError(f"noise is {self.noise}, but has to be at least 0.")
        if self.shift < 0:
            raise FungiError(f"shift {self.shift} is negative. It is a number of frames.")

    def prepare(self, item: Any) -> Float[Tensor, "v frames mels"]:
        """Draw the views of a waveform from torch's global stream, which the caller seeds for this sample."""
        spectrogram = self.spectrogram(item)
        views = [self._view(spectrogram) for _ in range(self.skipped + self.n_views)]
        return torch.stack(views[self.skipped :])

    def _view(self, spectrogram: Float[Tensor, "frames mels"]) -> Float[Tensor, "frames mels"]:
        """Draw one view: add noise, and shift the result in time."""
        # The values are normalised later, which divides the noise by 2 * deviation.
        scale = 1.0 if self.input.noise_stage == "before_norm" else 2 * self.input.deviation
        noisy = spectrogram + torch.rand_like(spectrogram) * torch.rand(()) * self.noise * scale
        shift = int(torch.randint(-self.shift, self.shift, ())) if self.shift else 0
        return noisy.roll(shift, dims=0)
