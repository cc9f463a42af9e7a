"""What the text and the audio demo share: extract and evaluate under both profiles, one table, a plain verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from fungi.combine.names import name_of
from fungi.errors import FungiError
from fungi.report.gain_table import print_gain_table
from fungi.settings import setting
from fungi.store.layout import EMBEDDINGS

OBJECTIVES = ("kl", "simclr")
PROFILE_SAMPLING = {"clean": "balanced", "published": "stratified"}
"""How each profile draws shots (spec text 6.1)."""


@dataclass(frozen=True, kw_only=True)
class ProfileDemoSettings:
    """Which network, under which profiles; a demo adds the folder that it writes to."""

    backbone: str = setting("", "backbone; the demo's own if absent")
    profiles: tuple[str, ...] = setting(tuple(PROFILE_SAMPLING), "profiles to run")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        if not self.profiles or any(name not in PROFILE_SAMPLING for name in self.profiles):
            raise FungiError(f"--profiles takes one or both of {', '.join(PROFILE_SAMPLING)}.")


@dataclass(frozen=True, kw_only=True)
class ProfileDemo:
    """One dataset and backbone, run under each profile.

    about: what there is to know before believing the numbers. shots: per class, beside all train rows.
    """

    dataset: str
    backbone: str
    root: Path
    about: str
    profiles: tuple[str, ...] = ("clean", "published")
    shots: int = 5
    device: str = "auto"
    seed: int = 42

    def run(self) -> dict[str, Mapping[str, Any]]:
        """Do what is missing, print the table and what it says; column -> content of a result file."""
        started = perf_counter()
        columns: dict[str, Mapping[str, Any]] = {}
        for profile in self.profiles:
            print(f"\n== {self.dataset}, {self.backbone}, profile {profile}", flush=True)
            self._extract(profile)
            columns[f"{profile}, all rows"] = self._knn(profile, None)
            columns[f"{profile}, {self.shots}-shot"] = self._knn(profile, self.shots)
        print(f"\nkNN accuracy (k = 20) on {self.dataset} with {self.backbone}. {self.about}\n")
        print_gain_table(columns)
        print(f"\n{verdict(columns)}")
        print(f"features and results   {self.root}/*/")
        print(f"{perf_counter() - started:.0f} s")
        return columns

    def _extract(self, profile: str) -> None:
        from fungi.extraction.extract_gradients import run
        from fungi.extraction.gradient_settings import GradientSettings

        settings: dict[str, Any] = {"profile": profile, "dataset": self.dataset, "backbone": self.backbone}
        run(
            GradientSettings(
                **settings,
                root=self.root / profile,
                objective=OBJECTIVES,
                with_embeddings=True,
                device=self.device,
                seed=self.seed,
            )
        )

    def _knn(self, profile: str, shots: int | None) -> Mapping[str, Any]:
        from fungi.scoring.knn_concat import KnnSettings, run

        sampling: Any = PROFILE_SAMPLING[profile] if shots else "balanced"
        return run(
            KnnSettings(
                dataset=self.dataset,
                backbone=self.backbone,
                root=(self.root / profile,),
                shots=shots,
                few_shot_sampling=sampling,
                device=self.device,
            )
        )


def verdict(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """In words, what adding the gradients to the embeddings did in each column, good or bad."""
    combinations = [name_of((EMBEDDINGS, *OBJECTIVES[:count])) for count in range(1, len(OBJECTIVES) + 1)]
    lines = []
    for name in combinations:
        gains = {
            title: 100 * (column["results"][name]["accuracy"] - column["results"][EMBEDDINGS]["accuracy"])
            for title, column in columns.items()
        }
        helped = sum(gain > 0 for gain in gains.values())
        listed = ", ".join(f"{gain:+.1f} ({title})" for title, gain in gains.items())
        lines.append(f"{name} beats the embeddings in {helped} of {len(gains)} columns: {listed}.")
    return "\n".join(lines)
