"""Code that the demos share: settings, the table of both profiles, and the last printed lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from fungi.combine.names import name_of
from fungi.errors import FungiError
from fungi.extraction import extract_gradients
from fungi.extraction.gradient_settings import GradientSettings
from fungi.profiles import PROFILES
from fungi.results.text import aligned, print_gain_table
from fungi.settings import SEEDS, setting
from fungi.store.layout import EMBEDDINGS

OBJECTIVES = ("kl", "simclr")
SHOTS = 5
"""Number of rows per class in the few-shot column."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Settings of a demo that runs with each seed and averages the scores: folder, seeds and device."""

    root: Path = setting(Path("demo"), "folder for everything that the demo writes", topic="files")
    seeds: tuple[int, ...] = setting(
        (42, 43, 44),
        "seeds of heads, projection, negatives and views; each is a full run",
        flag="--seed",
        aliases=("--seeds",),
        within=SEEDS,
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", topic="machine")

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise FungiError("--seed takes one or more different numbers.")

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folder of each seed."""
        return tuple(self.root / f"seed-{seed}" for seed in self.seeds)


@dataclass(frozen=True, kw_only=True)
class ProfileDemoSettings:
    """Settings of a demo that runs under each profile and compares them: network, profiles, device and folder."""

    backbone: str = setting("", "backbone (default: the backbone of the demo)", topic="model")
    profiles: tuple[str, ...] = setting(tuple(PROFILES), "profiles to run: clean, published")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", topic="machine")
    root: Path = setting(Path("demo"), "folder for everything that the demo writes", topic="files")

    def __post_init__(self) -> None:
        if not self.profiles or any(name not in PROFILES for name in self.profiles):
            raise FungiError(f"--profiles takes one or both of {', '.join(PROFILES)}.")


def run_profiles(settings: ProfileDemoSettings, dataset: str, backbone: str, note: str) -> None:
    """Extract and evaluate features, unless their files exist. Print the table, and the gains in words.

    note: remark about the data or the network, printed above the table.
    """
    from fungi.scoring.knn_concat import KnnSettings
    from fungi.scoring.knn_concat import run as knn

    started = perf_counter()
    shared: dict[str, Any] = {"dataset": dataset, "backbone": backbone, "device": settings.device}
    columns: dict[str, Mapping[str, Any]] = {}
    for profile in settings.profiles:
        print(f"\n== {dataset}, {backbone}, profile {profile}", flush=True)
        root = settings.root / profile
        options = {**shared, "profile": profile}
        extract_gradients.run(GradientSettings(**options, root=root, objective=OBJECTIVES, with_embeddings=True))
        columns[f"{profile}, all rows"] = knn(KnnSettings(**shared, root=(root,)))
        columns[f"{profile}, {SHOTS}-shot"] = knn(KnnSettings(**shared, root=(root,), shots=SHOTS))
    print(f"\nkNN accuracy (k = 20) on {dataset} with {backbone}. {note}\n")
    print_gain_table(columns)
    print(f"\n{gains_in_words(columns)}")
    print_places({"features and results": f"{settings.root}/*/"}, started)


def gains_in_words(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Return sentences about the gains of embeddings and gradients over embeddings in each column."""
    combinations = [name_of((EMBEDDINGS, *OBJECTIVES[:count])) for count in range(1, len(OBJECTIVES) + 1)]
    lines = []
    for name in combinations:
        gains = {
            title: 100 * (column["results"][name]["accuracy"] - column["results"][EMBEDDINGS]["accuracy"])
            for title, column in columns.items()
        }
        improved = sum(gain > 0 for gain in gains.values())
        gain_list = ", ".join(f"{gain:+.1f} ({title})" for title, gain in gains.items())
        lines.append(f"{name} beats the embeddings in {improved} of {len(gains)} columns: {gain_list}.")
    return "\n".join(lines)


def print_places(places: Mapping[str, object], started: float) -> None:
    """Print the places of the results, and the duration of the demo in seconds."""
    print("\n" + aligned([[title, str(place)] for title, place in places.items()]))
    print(f"{perf_counter() - started:.0f} s")
