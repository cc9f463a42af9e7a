"""Input of a text backbone, and the view generators of texts (spec text 1.2 and 3)."""

from dataclasses import dataclass
from typing import Any, Literal

from fungi.views.tokenizers import TokenizerSource

KINDS = {"plain": ("fungi.views.words", "WholeText"), "words": ("fungi.views.words", "DeletedWords")}


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """Raw text that is tokenised and truncated to `longest` tokens.

    deletion: rule of word deletion in the contrastive views (spec text 3.3): `independent` deletes each word with a
        probability, `count` deletes a fixed share of the words.
    denominator_temperature: whether SimCLR divides the similarities in its denominator by the temperature; the
        published text code does not (spec text 6, T1).
    """

    tokenizer: TokenizerSource
    longest: int = 512
    deletion: Literal["independent", "count"] = "independent"
    denominator_temperature: bool = True

    modality = "text"

    def views(self, kind: str, **options: Any) -> Any:
        """Return the view generator of a kind: `plain` (embeddings, KL) or `words` (SimCLR; some words are deleted)."""
        from fungi.views.base import choose_views

        return choose_views(KINDS, self, kind, **options)

    def objective_defaults(self, objective: str) -> dict[str, Any]:
        """Return the settings of an objective that differ from its defaults for images (spec text 3.2)."""
        if objective == "simclr":
            temperature = {"denominator_temperature": self.denominator_temperature}
            return {"view_generator": "words", "latent_dim": 256, **temperature}
        return {}
