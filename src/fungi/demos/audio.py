"""`fungi demo audio`: gradients of an audio transformer for synthetic clips, under both profiles."""

from dataclasses import dataclass
from pathlib import Path

from fungi.demos.runner import ProfileDemoSettings, run_profiles
from fungi.settings import setting

DESCRIPTION = """Extract embeddings and the gradients of KL and SimCLR for generated clips of eight kinds of tones, from
a small spectrogram transformer with random weights. Then classify by kNN, with all train rows and five per class.

The clips are generated and the network has random weights. The demo shows that the commands work with sounds, but its
accuracies say nothing about real sounds."""


@dataclass(frozen=True, kw_only=True)
class DemoAudioSettings(ProfileDemoSettings):
    """Settings of the audio demo."""

    root: Path = setting(Path("demo-audio"), "folder for everything that the demo writes", topic="files")


def run(settings: DemoAudioSettings) -> None:
    """Extract, evaluate and print the table."""
    note = "The clips are synthetic (generated, not recorded); tiny-ssast has random weights."
    run_profiles(settings, "tones", settings.backbone or "tiny-ssast", note)
