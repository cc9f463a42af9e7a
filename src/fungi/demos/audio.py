"""`fungi demo-audio`: gradients of an audio transformer on synthetic clips, under both profiles."""

from dataclasses import dataclass
from pathlib import Path

from fungi.demos.runner import ProfileDemoSettings, run_profiles
from fungi.settings import setting

DESCRIPTION = """Embeddings and the gradients of KL and SimCLR for generated clips of eight kinds of tones, from a small
spectrogram transformer with random weights; then kNN with all train rows and five per class, under both profiles.

Both the clips and the network are synthetic: this shows that the audio path works, and nothing about real sounds."""


@dataclass(frozen=True, kw_only=True)
class DemoAudioSettings(ProfileDemoSettings):
    """Where to write, besides."""

    root: Path = setting(Path("demo-audio"), "folder of everything that the demo writes")


def run(settings: DemoAudioSettings) -> None:
    """Extract, evaluate, say what came out."""
    about = "The clips are synthetic (generated, not recorded); tiny-ssast has random weights."
    run_profiles(settings, "tones", settings.backbone or "tiny-ssast", about)
