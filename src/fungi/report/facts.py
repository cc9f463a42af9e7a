"""Facts that distinguish protocols, and their texts.

A fact is a name and a value: `("k", 20)`, `("normalize", False)`, `("kl.temperature", 5.0)`. Facts are converted to
text only for display.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from fungi.errors import counted
from fungi.objectives import OBJECTIVES

Fact = tuple[str, Any]
Facts = tuple[Fact, ...]
ALWAYS_SHOWN = ("k", "pca_dim", "solver", "tolerance")
"""Settings that every heading shows, even with their default values."""
WORDS: dict[str, tuple[str, str]] = {
    "k": ("k {}", "{} neighbours"),
    "pca_dim": ("PCA {}", "PCA to at most {} components"),
    "no_pca": ("no PCA", "no PCA (no feature has more than {} components)"),
    "solver": ("solver {}", "solver {}"),
    "tolerance": ("tolerance {}", "tolerance {}"),
    "layer": ("layer {}", "layer {}"),
    "layer_key": ("array {}", "array {}"),
    "train_split": ("fitted on {}", "fitted on the rows of {}"),
    "test_split": ("rows of {}", "scored on the rows of {}"),
    "valid_split": ("lambda chosen on {}", "lambda chosen on the rows of {}"),
    "normalize": ("no L2 norm of gradients", "gradients not normalised"),
    "normalize_embeddings": ("no L2 norm of embeddings", "embeddings not normalised"),
    "few_shot_seed": ("draws {}", "train rows drawn with seeds {}"),
    "few_shot_sampling": ("{} draw", "{} draw of the train rows"),
    "few_shot_validation": ("lambda by {}", "lambda chosen by {}"),
    "renormalise_after_pca": ("cosine after PCA", "cosine after PCA"),
    "choose": (
        "features, PCA and k up to these chosen on train rows",
        "features, components and neighbours up to these chosen on the train rows",
    ),
    "score_fitted_rows": ("FITTED ROWS ARE SCORED", "FITTED ROWS ARE SCORED"),
    "weights": ("{} weights", "{} weights"),
    "input_side": ("images of {} pixels", "images of {} pixels"),
    "view_plan": ("{} views", "{} views"),
    "projection_kind": ("{} projection", "{} projection"),
    "projection_dim": ("projected to {}", "projected to {} entries"),
    "bias": ("{}", "{}"),
    "extraction_seed": ("seed {}", "extracted with seed {}"),
    "extraction_seeds": ("seeds {}", "extracted with seeds {}"),
    "extraction_dtype": ("extracted in {}", "extracted in {}"),
    "settings": ("{}", "settings {}"),
}
"""Name of a fact -> (its text in headings of files, its text on pages and in figures). Facts are shown in this order.
Facts without an entry follow; their text is their name and value."""
_ORDER = {name: position for position, name in enumerate(WORDS)}


@dataclass(frozen=True)
class Setting:
    """The training rows of a result; for retrieval, the difficulty of its queries.

    kind: `full`: all train rows; `shots`: a number of rows per class; `share`: a share of each class; `few`: any number
        of shots; `unlabelled`: no labels; `difficulty`: `M` or `H` (retrieval); `patches`: size of the bank
        (segmentation); `images`: number of training images (segmentation).
    amount: the number or share of rows, or the letter of the difficulty.
    drawn: whether the rows were drawn at random.
    """

    kind: Literal["full", "shots", "share", "few", "unlabelled", "difficulty", "patches", "images"] = "full"
    amount: int | float | str = ""
    drawn: bool = False

    def __str__(self) -> str:
        """Return the setting as the published tables write it: `full`, `5-shot`, `10-percent drawn`, `M`."""
        texts = {"shots": f"{self.amount}-shot", "difficulty": self.amount, "share": f"{self._percent()}-percent"}
        texts |= {kind: f"{self.amount} {kind}" for kind in ("patches", "images")}
        return f"{texts.get(self.kind, self.kind)}{' drawn' if self.drawn else ''}"

    def in_words(self) -> str:
        """Return the setting for pages and figures: `5 train rows per class`."""
        texts = {
            "full": "all train rows",
            "shots": f"{_amount(self.amount, 'train row')} per class",
            "share": f"{self._percent()} % of the train rows",
            "few": "few train rows per class",
            "unlabelled": "all scored rows, fitted without labels",
            "difficulty": {"M": "medium", "H": "hard"}.get(str(self.amount), str(self.amount)),
            "patches": f"bank of {_amount(self.amount, 'patch')}",
            "images": _amount(self.amount, "training image"),
        }
        return f"{texts[self.kind]}{' drawn' if self.drawn else ''}"

    def _percent(self) -> str:
        """Return a share in percent; empty for other settings."""
        return f"{100 * float(self.amount):g}" if self.kind == "share" else ""


def _amount(amount: int | float | str, noun: str) -> str:
    """Return an amount with its noun: `1 patch`, `2000 patches` (`counted` would write `2,000`)."""
    return f"1 {noun}" if amount == 1 else f"{amount} {counted(2, noun).removeprefix('2 ')}"


def as_facts(values: Iterable[Fact]) -> Facts:
    """Return facts in the order of `WORDS`, without duplicates and with lists as tuples."""
    facts = ((name, tuple(value) if isinstance(value, list) else value) for name, value in values)
    return tuple(sorted(dict.fromkeys(facts), key=lambda fact: _ORDER.get(fact[0], len(_ORDER))))


def heading_text(facts: Iterable[Fact]) -> str:
    """Return the text of facts for the heading of a table in a file: `k 20, PCA 512, kl temperature 5.0`."""
    return ", ".join(_text_of(name, value, 0) for name, value in facts)


def page_texts(facts: Iterable[Fact]) -> list[str]:
    """Return the texts of facts for pages and figures: `20 neighbours`, `KL temperature 5.0`."""
    return [_text_of(name, value, 1) for name, value in facts]


def objective_in_words(name: str) -> str:
    """Return the name of an objective as papers write it: `KL` for `kl`, `SimCLR` for `simclr`.

    Names that are not objectives are not changed.
    """
    names = {"simclr": "SimCLR", "deepcluster": "DeepCluster", "ibot": "iBOT"}
    is_abbreviation = name in OBJECTIVES and len(name) <= _ABBREVIATION_LENGTH
    return names.get(name, name.upper() if is_abbreviation else name)


_ABBREVIATION_LENGTH = 4
"""Names of objectives of at most this length are abbreviations, which papers write in capital letters."""


def _text_of(name: str, value: Any, style: int) -> str:
    """Return the text of a fact. style: 0 for headings of files, 1 for pages and figures."""
    value_text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if name == "k" and style and isinstance(value, int):
        return counted(value, "neighbour")
    if name in WORDS:
        return WORDS[name][style].format(value_text)
    objective, dot, setting = name.partition(".")
    name_text = f"{objective_in_words(objective) if style else objective} {setting}" if dot else name
    return f"{name_text.replace('_', ' ')} {value_text}".replace("  ", " ")
