"""Input of an audio backbone, and the view generators of sounds (spec audio 2 and 4)."""

from dataclasses import dataclass
from typing import Any, Literal

KINDS = {
    "plain": ("fungi.views.spectrograms", "WholeClip"),
    "noisy-shifts": ("fungi.views.spectrograms", "NoisyShifts"),
}


@dataclass(frozen=True, kw_only=True)
class SoundInput:
    """Log-mel spectrogram `[frames mels]`, cut or padded at its end, normalised by `(x - mean) / (2 deviation)`.

    frames: number of frames, 10 ms each. mean, deviation: mean and standard deviation of the log-mel values. All three
        depend on the dataset; the defaults are those of ESC-50.
    noise_stage: whether contrastive views add noise to log-mel values before or after their normalisation.
    denominator_temperature: whether SimCLR divides the similarities in its denominator by the temperature; the
        published audio code does not (spec audio 6, U1).
    """

    frames: int = 512
    mean: float = -6.6268077
    deviation: float = 5.358466
    noise_stage: Literal["before_norm", "after_norm"] = "before_norm"
    denominator_temperature: bool = True

    modality = "audio"

    def views(self, kind: str, **options: Any) -> Any:
        """Return the view generator of a kind: `plain` (embeddings, KL) or `noisy-shifts` (SimCLR)."""
        from fungi.views.base import choose_views

        return choose_views(KINDS, self, kind, **options)

    def objective_defaults(self, objective: str) -> dict[str, Any]:
        """Return the settings of an objective that differ from its defaults for images (spec audio 4.2)."""
        if objective == "simclr":
            temperature = {"denominator_temperature": self.denominator_temperature}
            return {"view_generator": "noisy-shifts", "latent_dim": 768, "negative_samples": 64, **temperature}
        return {}
