"""The ablations of the paper and its author response: functions from a `VariationRunner` to an `AblationTable`.

To add an ablation, write a function with the decorator `@ablation`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fungi.ablations.variations import ReductionKind, VariationRunner
from fungi.combine.names import name_of
from fungi.errors import FungiError
from fungi.extraction.gradient_settings import NO_PROJECTION
from fungi.results.ablation_table import IMAGES_PER_SECOND, MILLISECONDS, QUERIES_PER_SECOND, AblationTable
from fungi.store.layout import EMBEDDINGS

Ablation = Callable[[VariationRunner], AblationTable]
Changes = dict[str, Any]
"""Settings of the extraction and their values in a variation."""

ABLATIONS: dict[str, Ablation] = {}
BLOCK_LAYERS = {"qkv": "attn.qkv", "attn_proj": "attn.proj", "mlp_1": "mlp.fc1", "mlp_2": "mlp.fc2"}
"""Name of a column -> path of the linear layer within a block."""


def ablation(name: str) -> Callable[[Ablation], Ablation]:
    """Return a decorator that registers an ablation. name: its name on the command line."""

    def register(function: Ablation) -> Ablation:
        ABLATIONS[name] = function
        return function

    return register


def nested_combinations(names: Sequence[str]) -> list[list[str]]:
    """Return the combinations of the paper's tables: embeddings, embeddings with the first objective, and so on."""
    return [[EMBEDDINGS, *names[:count]] for count in range(len(names) + 1)]


@ablation("projections")
def projections(runner: VariationRunner) -> AblationTable:
    """Compare kinds of the random projection (author response, table 29)."""
    kinds, combinations = ("binary", "gaussian", "sparse"), nested_combinations(runner.settings.objective)
    table = AblationTable(
        "kind of the projection matrix", kinds, ["+".join(names) for names in combinations], published=("rebuttal-29",)
    )
    embeddings = runner.embeddings()
    for seed in runner.settings.all_seeds:
        for kind in kinds:
            features = embeddings | runner.gradients(f"projection-{kind}", seed, projection_kind=kind)
            for names in combinations:
                table.add("+".join(names), kind, runner.score(features, names))
    return table


@ablation("pca")
def reductions(runner: VariationRunner) -> AblationTable:
    """Compare no reduction, PCA and random projections of the concatenated feature (author response, table 23)."""
    columns: dict[str, ReductionKind] = {"no-reduction": "none", "pca": "pca"}
    columns |= {"random-binary": "binary", "random-gaussian": "gaussian", "random-sparse": "sparse"}
    combinations = nested_combinations(runner.settings.objective)
    rows = ["+".join(names) for names in combinations]
    table = AblationTable("reduction of the concatenated feature", list(columns), rows, published=("rebuttal-23",))
    for seed in runner.settings.all_seeds:
        features = runner.embeddings() | runner.gradients("default", seed)
        for names in combinations:
            for column, reduction in columns.items():
                table.add("+".join(names), column, runner.score(features, names, reduction, seed))
    return table


@ablation("layers")
def layers(runner: VariationRunner) -> AblationTable:
    """Compare the gradients of all linear layers of all blocks, each alone (figure 8)."""
    objectives, blocks = runner.settings.objective, _blocks(runner)
    columns = [f"{objective} {layer}" for objective in objectives for layer in BLOCK_LAYERS]
    table = AblationTable("gradient alone, by block and layer", columns, [f"block {block}" for block in blocks])
    table.notes.append("the paper shows these values only in figure 8.")
    for seed in runner.settings.all_seeds:
        for block in blocks:
            paths = tuple(f"blocks.{block}.{path}:{name}" for name, path in BLOCK_LAYERS.items())
            features = runner.gradients(f"block-{block}", seed, layer=paths)
            for objective in objectives:
                for name in BLOCK_LAYERS:
                    value = runner.score(features, [f"{objective}@{name}"])
                    table.add(f"block {block}", f"{objective} {name}", value)
    return table


@ablation("bias")
def bias(runner: VariationRunner) -> AblationTable:
    """Compare gradients with and without the bias (author response, table 30)."""
    rows: dict[str, Changes] = {"attn.proj weight only": {"bias": False}, "attn.proj weight and bias": {"bias": True}}
    return _table_of_gradients(runner, "gradient of the bias", rows, "rebuttal-30")


@ablation("qkv")
def qkv(runner: VariationRunner) -> AblationTable:
    """Compare parts of the fused query, key and value layer (author response, table 31)."""
    *_, last_block = _blocks(runner)
    path = f"blocks.{last_block}.attn.qkv"
    rows: dict[str, Changes] = {
        f"attn.qkv ({part} rows)": {"layer": (f"{path}[{part}]:{part}",)} for part in ("q", "k", "v")
    }
    return _table_of_gradients(
        runner, "part of the qkv gradient", {**rows, "attn.qkv (all rows)": {"layer": (f"{path}:qkv",)}}, "rebuttal-31"
    )


@ablation("multi-layer")
def multi_layer(runner: VariationRunner) -> AblationTable:
    """Compare the gradient of one layer with the gradients of two layers together (author response, table 32)."""
    *_, last_block = _blocks(runner)
    paths: tuple[str, ...] = (f"blocks.{last_block}.attn.proj:attn_proj", f"blocks.{last_block}.attn.qkv[v]:v")
    rows: dict[str, Changes] = {"attn.proj": {"layer": paths[:1]}, "attn.proj + attn.qkv (v rows)": {"layer": paths}}
    return _table_of_gradients(runner, "gradients of two layers", rows, "rebuttal-32")


@ablation("views")
def views(runner: VariationRunner) -> AblationTable:
    """Compare accuracy and speed for several numbers of patches of SimCLR (figure 12)."""
    grids_and_scales = [(2, 1), (2, 2), (2, 3), (2, 4), (2, 6)]
    rows = {f"{_patches(runner, grid, scale)} views": (grid, scale) for grid, scale in grids_and_scales}
    table = AblationTable("SimCLR gradient alone, by number of patches", ["accuracy", IMAGES_PER_SECOND], list(rows))
    table.notes.append("the paper shows these values only in figure 12.")
    table.notes.append(f"speed on {runner.context.device}, without decoding.")
    for row, (grid, scale) in rows.items():
        changes: Changes = {"objective": ("simclr",), "set": (f"simclr.grid={grid}", f"simclr.stride_scale={scale}")}
        for seed in runner.settings.all_seeds:
            value = runner.score(runner.gradients(f"patches-{grid}-{scale}", seed, **changes), ["simclr"])
            table.add(row, "accuracy", value)
        table.add(row, IMAGES_PER_SECOND, runner.images_per_second(f"patches-{grid}-{scale}", **changes))
    return table


@ablation("heads")
def heads(runner: VariationRunner) -> AblationTable:
    """Compare normalisation and projection before the loss (table 6), and DINO's heads and augmentation (table 15)."""
    variants: dict[str, tuple[str, tuple[str, ...]]] = {}  # row -> objective and its options
    for objective in runner.settings.objective:
        for normalize in (False, True):
            for project in (False, True):
                row = f"{objective}, norm {_yes_or_no(normalize)}, projection {_yes_or_no(project)}"
                variants[row] = (objective, (f"{objective}.normalize={normalize}", f"{objective}.project={project}"))
    if "dino" in runner.settings.objective:
        variants["dino, shared heads"] = ("dino", ("dino.shared_head=True",))
        variants["dino, full augmentation"] = ("dino", ("dino.augmentation=dino",))
    table = AblationTable(
        "gradient alone, by head", ["accuracy"], list(variants), published=("paper-6", "paper-15a", "paper-15b")
    )
    for seed in runner.settings.all_seeds:
        for row, (objective, options) in variants.items():
            label = row.replace(", ", "-").replace(" ", "-")
            table.add(row, "accuracy", _score_of_gradient(runner, label, seed, objective, options))
    return table


@ablation("raw")
def raw(runner: VariationRunner) -> AblationTable:
    """Compare raw and projected gradients of the weight, without bias and PCA (author response, table 28)."""
    size = runner.settings.projection_dim or 768  # by default the size in table 28
    rows: dict[str, Changes] = {
        "raw gradient": {"projection_kind": NO_PROJECTION, "projection_dim": 0},
        f"projected to {size}": {"projection_dim": size},
    }
    objectives = runner.settings.objective
    table = AblationTable("gradient alone, raw and projected", objectives, list(rows), published=("rebuttal-28",))
    for seed in runner.settings.all_seeds:
        for row, changes in rows.items():
            features = runner.gradients(row.replace(" ", "-"), seed, bias=False, **changes)
            for name in objectives:
                table.add(row, name, runner.score(features, [name], "none"))
    return table


@ablation("throughput")
def throughput(runner: VariationRunner) -> AblationTable:
    """Measure images and kNN queries per second, for the embeddings alone and with each gradient (table 22)."""
    columns, names = (IMAGES_PER_SECOND, QUERIES_PER_SECOND), runner.settings.objective
    rows = [EMBEDDINGS, *(f"{EMBEDDINGS}+{name}" for name in names)]
    table = AblationTable("speed", columns, rows, published=("paper-22",))
    table.notes.append(
        f"on {runner.context.device}, without decoding; embeddings and gradients are measured separately."
    )
    embeddings = runner.embeddings()
    for row, name in zip(rows, (EMBEDDINGS, *names), strict=True):
        changes: Changes = {} if name == EMBEDDINGS else {"objective": (name,)}
        features = embeddings
        if changes:
            features = embeddings | runner.gradients(f"objective-{name}", runner.settings.seed, **changes)
        table.add(row, IMAGES_PER_SECOND, runner.images_per_second(name, **changes))
        table.add(row, QUERIES_PER_SECOND, runner.queries_per_second(features, row.split("+")))
    return table


@ablation("times")
def times(runner: VariationRunner) -> AblationTable:
    """Measure the time of a projection, of fitting PCA, and of applying PCA to the train rows (author response)."""
    if runner.settings.projection_kind == NO_PROJECTION:
        raise FungiError(f"--ablation times measures a projection: remove --projection-kind {NO_PROJECTION}.")
    names = (EMBEDDINGS, *runner.settings.objective)
    projection, fit, application = "projection of 8 gradients", "fitting PCA", "PCA of the train rows"
    table = AblationTable("time", [MILLISECONDS], [projection, fit, application])
    features = runner.embeddings() | runner.gradients("default", runner.settings.seed)
    count = features.arrays["train"][EMBEDDINGS].rows
    table.notes.append(f"on {runner.context.device}; PCA of {name_of(names)}, {count} train rows in memory.")
    table.add(projection, MILLISECONDS, runner.milliseconds_to_project(8))
    fit_time, application_time = runner.milliseconds_of_pca(features, names)
    table.add(fit, MILLISECONDS, fit_time)
    table.add(application, MILLISECONDS, application_time)
    return table


@ablation("objectives")
def objectives(runner: VariationRunner) -> AblationTable:
    """Compare the gradient of each objective alone with the embeddings (figure 10)."""
    names = runner.settings.objective
    table = AblationTable("single features", ["accuracy"], [EMBEDDINGS, *names])
    table.notes.append("the paper shows these values only in figure 10.")
    table.add(EMBEDDINGS, "accuracy", runner.score(runner.embeddings(), [EMBEDDINGS]))
    for seed in runner.settings.all_seeds:
        for name in names:
            table.add(name, "accuracy", _score_of_gradient(runner, f"objective-{name}", seed, name, ()))
    return table


def _table_of_gradients(runner: VariationRunner, title: str, rows: dict[str, Changes], published: str) -> AblationTable:
    """Return a table with a row for each variation of the gradient source.

    Columns: all features together, then the gradients of each objective alone.
    """
    names = runner.settings.objective
    full = "+".join([EMBEDDINGS, *names])
    table = AblationTable(title, [full, *names], list(rows), published=(published,))
    table.notes.append("the response does not name the objectives of its feature.")
    embeddings = runner.embeddings()
    for seed in runner.settings.all_seeds:
        for row, changes in rows.items():
            features = runner.gradients(row.replace(" ", "-").replace("+", "and"), seed, **changes)
            gradients = list(features.arrays["train"])
            table.add(row, full, runner.score(embeddings | features, [EMBEDDINGS, *gradients]))
            for name in names:
                gradients_of_objective = [gradient for gradient in gradients if gradient.partition("@")[0] == name]
                table.add(row, name, runner.score(features, gradients_of_objective))
    return table


def _score_of_gradient(
    runner: VariationRunner, label: str, seed: int, objective: str, options: tuple[str, ...]
) -> float:
    """Return the kNN score of a single gradient. label: name of the folder. options: options of the objective."""
    features = runner.gradients(label, seed, objective=(objective,), set=options)
    return runner.score(features, [objective])


def _blocks(runner: VariationRunner) -> list[int]:
    """Return the indices of the blocks of the model. Raises FungiError if the model has no attribute `blocks`."""
    model: Any = runner.context.backbone.model
    if not hasattr(model, "blocks"):
        raise FungiError(
            f"{runner.context.backbone.spec.name} has no transformer blocks, which this ablation varies. Use a vision"
            " transformer of timm."
        )
    return list(range(len(model.blocks)))


def _patches(runner: VariationRunner, grid: int, stride_scale: int) -> int:
    """Return the number of patches of an image, for a grid of `grid` x `grid` patches without overlap.

    stride_scale: factor by which the stride between patches is smaller than their side.
    """
    return runner.context.backbone.input.views("patches", grid=grid, stride_scale=stride_scale).n_views


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
