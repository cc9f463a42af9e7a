"""Extract every setting of views for every seed. Existing files are reused."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from fungi.errors import FungiError, counted
from study import token_windows
from study.scores import feature_folder, is_extracted, score
from study.settings import COMBINED, KL, SETTINGS, Setting

WITH_WINDOWS = ("digits-vit", "udi-micro")
"""Backbones whose tokens form a grid, and whose blocks can be called separately."""


def run(options: argparse.Namespace) -> None:
    """Extract and score every setting for every seed, then score the combinations of objectives.

    Raises FungiError before any work if `--rows` or `--only` can't be used.
    """
    from fungi.backbones.base import resolve_backbone
    from fungi.backbones.position_embedding import patch_size_of
    from fungi.combine.protocol import usual_pca_dim

    spec = resolve_backbone(options.backbone)
    is_vision = spec.modality == "vision"
    size, patch = (options.input_size or spec.input.size, patch_size_of(spec.build())) if is_vision else (1, 1)
    folder = options.root / f"{options.dataset}-{options.backbone}"
    settings = SETTINGS[spec.modality]
    _check_names(options, settings, folder)
    dataset = _dataset(options, folder)
    pca_dim = usual_pca_dim(options.dataset, options.backbone)
    for setting in settings:
        if options.only and setting.name not in options.only:
            continue
        if setting.windows and options.backbone not in WITH_WINDOWS:
            continue
        for seed in options.seeds:
            _extract(options, dataset, setting, seed, folder, setting.as_flags(size, patch))
            score(folder, seed, setting.objective, [setting], pca_dim)
    by_name = {setting.name: setting for setting in settings}
    combinations = {name: parts for name, parts in COMBINED.items() if by_name.keys() >= set(parts)}
    for name, parts in combinations.items():
        for seed in options.seeds:
            score(folder, seed, name, [by_name[part] for part in parts], pca_dim)


def _check_names(options: argparse.Namespace, settings: Sequence[Setting], folder: Path) -> None:
    """Raise FungiError if `--only` has an unknown name, or if the embeddings would be missing.

    The extraction of KL also writes the embeddings, with which the gradients of every setting are combined.
    """
    names = [setting.name for setting in settings]
    if unknown := [name for name in options.only if name not in names]:
        raise FungiError(f"--only: there is no setting {unknown[0]!r}. There are: {'; '.join(names)}.")
    if options.only and KL.name not in options.only:
        for seed in options.seeds:
            if not is_extracted(feature_folder(folder, seed, KL)):
                raise FungiError(f"the embeddings of seed {seed} are missing. Add {KL.name} to --only.")


def _dataset(options: argparse.Namespace, folder: Path) -> str:
    """Return the dataset to extract, and record the options that change its features.

    Raises FungiError if the folder has features of other options.
    """
    file, checkpoint = folder / "options.json", options.checkpoint and str(options.checkpoint)
    current = {"rows": options.rows, "checkpoint": checkpoint, "input_size": options.input_size, "set": options.set}
    current = json.loads(json.dumps(current))  # tuples become lists
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else current
    for name, value in current.items():
        if stored[name] != value:
            flag = f"--{name.replace('_', '-')}"
            raise FungiError(f"{folder} has features with {flag} {stored[name]}, not {value}. Choose another --root.")
    dataset = _first_rows(options.dataset, options.rows, folder)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(current), encoding="utf-8")
    return dataset


def _first_rows(dataset: str, rows: Sequence[int], folder: Path) -> str:
    """Return the dataset, or a folder dataset with the first rows of its splits.

    The first rows are a random sample, because the labels of these datasets have a random order. Raises FungiError if
    a split would have no rows or has too few rows.
    """
    if not any(rows):
        return dataset
    if min(rows) < 1:
        raise FungiError(f"--rows {' '.join(map(str, rows))}: use at least one train row and one test row.")
    from fungi.data.base import open_split

    images, counts = folder / "images", dict(zip(("train", "test"), rows, strict=True))
    splits = {split: open_split(dataset, split, Path("data")) for split in counts}
    for split, count in counts.items():
        if count > len(splits[split]):
            raise FungiError(f"--rows {count}: the split {split} has only {counted(len(splits[split]), 'row')}.")
    for split, count in counts.items():
        for row in range(count):
            path = images / split / f"class-{splits[split].targets[row]}" / f"{row:05d}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                splits[split].load(row).save(path)
    return f"{dataset}-part=folder:{images}"


def _extract(
    options: argparse.Namespace, dataset: str, setting: Setting, seed: int, folder: Path, flags: tuple[str, ...]
) -> None:
    """Extract the features of a setting, unless they are complete, and record time and forwards in `done.json`.

    folder: folder of the dataset and backbone. flags: options of the views.
    """
    from fungi.extraction import extract_gradients
    from fungi.extraction.gradient_settings import GradientSettings

    setting_folder, start = feature_folder(folder, seed, setting), perf_counter()
    if is_extracted(setting_folder):
        return
    common_options = tuple(text for text in options.set if text.startswith(f"{setting.objective}."))
    loading_options = {"checkpoint": options.checkpoint, "input_size": options.input_size}
    if setting.windows:
        forwards = token_windows.extract(
            options.backbone, loading_options, dataset, setting.windows, seed, setting_folder, common_options
        )
        facts = {"seconds": perf_counter() - start, "forwards": forwards}
        (setting_folder / "done.json").write_text(json.dumps(facts))
        return
    settings = GradientSettings(
        dataset=dataset,
        backbone=options.backbone,
        objective=(setting.objective,),
        with_embeddings=setting.objective == "kl",
        root=setting_folder,
        seed=seed,
        set=flags + common_options,
        device="cpu",
        **loading_options,
    )
    extract_gradients.run(settings)
    facts = {"seconds": perf_counter() - start, "forwards": _forwards(options, setting, settings.set)}
    (setting_folder / "done.json").write_text(json.dumps(facts))


def _forwards(options: argparse.Namespace, setting: Setting, flags: Sequence[str]) -> float:
    """Return the forwards per image of a setting. flags: all options of the views and the objective."""
    from fungi.backbones.base import resolve_backbone
    from fungi.extraction.gradient_settings import parse_options
    from fungi.objectives.binding import bind
    from fungi.views.base import forwards_of

    spec: Any = resolve_backbone(options.backbone).input
    input_spec = spec.resized(options.input_size) if options.input_size else spec
    arguments = {"embedding_dim": 1, "input_spec": input_spec, "seed": 0}
    objective_options = parse_options(tuple(flags)).get(setting.objective)
    return forwards_of(bind(setting.objective, **arguments, options=objective_options).views)
