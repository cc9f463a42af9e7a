"""Extract every setting of views for every seed. Existing files are reused."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from study import token_windows
from study.scores import feature_folder, score
from study.settings import COMBINED, SETTINGS, Setting

WITH_WINDOWS = ("digits-vit", "udi-micro")
"""Backbones whose tokens form a grid, and whose blocks can be called separately."""


def run(options: argparse.Namespace) -> None:
    """Extract and score every setting for every seed, then score the combinations of objectives."""
    from fungi.backbones.base import resolve_backbone
    from fungi.backbones.position_embedding import patch_size_of

    spec = resolve_backbone(options.backbone)
    is_vision = spec.modality == "vision"
    size, patch = (options.input_size or spec.input.size, patch_size_of(spec.build())) if is_vision else (1, 1)
    folder = options.root / f"{options.dataset}-{options.backbone}"
    dataset = _first_rows(options.dataset, options.rows, folder)
    settings = SETTINGS[spec.modality]
    for setting in settings:
        if options.only and setting.name not in options.only:
            continue
        if setting.windows and options.backbone not in WITH_WINDOWS:
            continue
        for seed in options.seeds:
            _extract(options, dataset, setting, seed, folder, setting.as_flags(size, patch))
            score(folder, seed, setting.objective, [setting])
    by_name = {setting.name: setting for setting in settings}
    combinations = {name: parts for name, parts in COMBINED.items() if by_name.keys() >= set(parts)}
    for name, parts in combinations.items():
        for seed in options.seeds:
            score(folder, seed, name, [by_name[part] for part in parts])


def _first_rows(dataset: str, rows: Sequence[int], folder: Path) -> str:
    """Return the dataset, or a folder dataset with the first rows of its splits.

    The first rows are a random sample, because the labels of these datasets have a random order.
    """
    if not any(rows):
        return dataset
    from fungi.data.base import open_split

    images = folder / "images"
    for split, count in zip(("train", "test"), rows, strict=True):
        samples = open_split(dataset, split, Path("data"))
        for row in range(count):
            path = images / split / f"class-{samples.targets[row]}" / f"{row:05d}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                samples.load(row).save(path)
    return f"{dataset}-part=folder:{images}"


def _extract(
    options: argparse.Namespace, dataset: str, setting: Setting, seed: int, folder: Path, flags: tuple[str, ...]
) -> None:
    from fungi.extraction import extract_gradients
    from fungi.extraction.gradient_settings import GradientSettings

    place, start = feature_folder(folder, seed, setting), perf_counter()
    if (place / "done.json").exists():
        return
    common_options = tuple(text for text in options.set if text.startswith(f"{setting.objective}."))
    loading_options = {"checkpoint": options.checkpoint, "input_size": options.input_size}
    if setting.windows:
        forwards = token_windows.extract(
            options.backbone, loading_options, dataset, setting.windows, seed, place, common_options
        )
        facts = {"seconds": perf_counter() - start, "forwards": forwards}
        (place / "done.json").write_text(json.dumps(facts))
        return
    settings = GradientSettings(
        dataset=dataset,
        backbone=options.backbone,
        objective=(setting.objective,),
        with_embeddings=setting.objective == "kl",
        root=place,
        seed=seed,
        set=flags + common_options,
        device="cpu",
        **loading_options,
    )
    extract_gradients.run(settings)
    facts = {"seconds": perf_counter() - start, "forwards": _forwards(options, setting, flags)}
    (place / "done.json").write_text(json.dumps(facts))


def _forwards(options: argparse.Namespace, setting: Setting, flags: Sequence[str]) -> float:
    """Return the forwards per image of a setting."""
    from fungi.backbones.base import resolve_backbone
    from fungi.extraction.gradient_settings import parse_options
    from fungi.objectives.binding import bind
    from fungi.views.base import forwards_of

    spec: Any = resolve_backbone(options.backbone).input
    input_spec = spec.resized(options.input_size) if options.input_size else spec
    arguments = {"embedding_dim": 1, "input_spec": input_spec, "seed": 0}
    objective_options = parse_options(tuple(flags)).get(setting.objective)
    return forwards_of(bind(setting.objective, **arguments, options=objective_options).views)
