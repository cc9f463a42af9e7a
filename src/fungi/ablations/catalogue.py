"""The ablations of the paper and its author response. Each is a function from a `Bench` to an `AblationTable`.

To add an ablation, write a function with the decorator `@ablation`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fungi.ablations.bench import Bench, ReductionKind
from fungi.combine.names import name_of
from fungi.errors import FungiError
from fungi.extraction.gradient_settings import NO_PROJECTION
from fungi.results.ablation_table import IMAGES_PER_SECOND, MILLISECONDS, QUERIES_PER_SECOND, AblationTable
from fungi.store.layout import EMBEDDINGS

Ablation = Callable[[Bench], AblationTable]
Changes = dict[str, Any]
"""Settings of the extraction and their values in a variation."""

ABLATIONS: dict[str, Ablation] = {}
BLOCK_LAYERS = {"qkv": "attn.qkv", "attn_proj": "attn.proj", "mlp_1": "mlp.fc1", "mlp_2": "mlp.fc2"}
"""Name of a column -> path of the linear layer within a block."""


def ablation(name: str) -> Callable[[Ablation], Ablation]:
    """Register a function under its name on the command line."""

    def register(function: Ablation) -> Ablation:
        ABLATIONS[name] = function
        return function

    return register


def nested(names: Sequence[str]) -> list[list[str]]:
    """Return the embeddings, the embeddings with the first objective, and so on, as in the paper's tables."""
    return [[EMBEDDINGS, *names[:count]] for count in range(len(names) + 1)]


@ablation("projections")
def projections(bench: Bench) -> AblationTable:
    """Compare kinds of the random projection (author response, table 29)."""
    kinds, combinations = ("binary", "gaussian", "sparse"), nested(bench.settings.objective)
    table = AblationTable(
        "kind of the projection matrix", kinds, ["+".join(names) for names in combinations], published=("rebuttal-29",)
    )
    embeddings = bench.embeddings()
    for seed in bench.settings.all_seeds:
        for kind in kinds:
            features = embeddings | bench.gradients(f"projection-{kind}", seed, projection_kind=kind)
            for names in combinations:
                table.add("+".join(names), kind, bench.score(features, names))
    return table


@ablation("pca")
def reductions(bench: Bench) -> AblationTable:
    """Compare no reduction, PCA and random projections of the concatenated feature (author response, table 23)."""
    columns: dict[str, ReductionKind] = {"no-reduction": "none", "pca": "pca"}
    columns |= {"random-binary": "binary", "random-gaussian": "gaussian", "random-sparse": "sparse"}
    combinations = nested(bench.settings.objective)
    rows = ["+".join(names) for names in combinations]
    table = AblationTable("reduction of the concatenated feature", list(columns), rows, published=("rebuttal-23",))
    for seed in bench.settings.all_seeds:
        features = bench.embeddings() | bench.gradients("default", seed)
        for names in combinations:
            for column, reduction in columns.items():
                table.add("+".join(names), column, bench.score(features, names, reduction, seed))
    return table


@ablation("layers")
def layers(bench: Bench) -> AblationTable:
    """Compare the gradients of all linear layers of all blocks, each alone (figure 8)."""
    objectives, blocks = bench.settings.objective, _blocks(bench)
    columns = [f"{objective} {layer}" for objective in objectives for layer in BLOCK_LAYERS]
    table = AblationTable("gradient alone, by block and layer", columns, [f"block {block}" for block in blocks])
    table.notes.append("the paper shows these values only in figure 8.")
    for seed in bench.settings.all_seeds:
        for block in blocks:
            paths = tuple(f"blocks.{block}.{path}:{name}" for name, path in BLOCK_LAYERS.items())
            features = bench.gradients(f"block-{block}", seed, layer=paths)
            for objective in objectives:
                for name in BLOCK_LAYERS:
                    value = bench.score(features, [f"{objective}@{name}"])
                    table.add(f"block {block}", f"{objective} {name}", value)
    return table


@ablation("bias")
def bias(bench: Bench) -> AblationTable:
    """Compare gradients with and without the bias (author response, table 30)."""
    rows: dict[str, Changes] = {"attn.proj weight only": {"bias": False}, "attn.proj weight and bias": {"bias": True}}
    return _table_of_gradients(bench, "gradient of the bias", rows, "rebuttal-30")


@ablation("qkv")
def qkv(bench: Bench) -> AblationTable:
    """Compare parts of the fused query, key and value layer (author response, table 31)."""
    path = f"blocks.{_blocks(bench)[-1]}.attn.qkv"
    rows: dict[str, Changes] = {
        f"attn.qkv ({part} rows)": {"layer": (f"{path}[{part}]:{part}",)} for part in ("q", "k", "v")
    }
    return _table_of_gradients(
        bench, "part of the qkv gradient", {**rows, "attn.qkv (all rows)": {"layer": (f"{path}:qkv",)}}, "rebuttal-31"
    )


@ablation("multi-layer")
def multi_layer(bench: Bench) -> AblationTable:
    """Compare the gradient of one layer with the gradients of two layers together (author response, table 32)."""
    block = _blocks(bench)[-1]
    both: tuple[str, ...] = (f"blocks.{block}.attn.proj:attn_proj", f"blocks.{block}.attn.qkv[v]:v")
    rows: dict[str, Changes] = {"attn.proj": {"layer": both[:1]}, "attn.proj + attn.qkv (v rows)": {"layer": both}}
    return _table_of_gradients(bench, "gradients of two layers", rows, "rebuttal-32")


@ablation("views")
def views(bench: Bench) -> AblationTable:
    """Compare numbers of SimCLR's patches (figure 12), with the speed."""
    grids = [(2, 1), (2, 2), (2, 3), (2, 4), (2, 6)]
    steps = {f"{_patches(bench, *grid)} views": grid for grid in grids}
    table = AblationTable("SimCLR gradient alone, by number of patches", ["accuracy", IMAGES_PER_SECOND], list(steps))
    table.notes.append("the paper shows these values only in figure 12.")
    table.notes.append(f"speed on {bench.context.device}, without decoding.")
    for row, (grid, scale) in steps.items():
        changes: Changes = {"objective": ("simclr",), "set": (f"simclr.grid={grid}", f"simclr.stride_scale={scale}")}
        for seed in bench.settings.all_seeds:
            value = bench.score(bench.gradients(f"patches-{grid}-{scale}", seed, **changes), ["simclr"])
            table.add(row, "accuracy", value)
        table.add(row, IMAGES_PER_SECOND, bench.images_per_second(f"patches-{grid}-{scale}", **changes))
    return table


@ablation("heads")
def heads(bench: Bench) -> AblationTable:
    """Compare normalisation and projection before the loss (table 6), and DINO's heads and augmentation (table 15)."""
    variants: dict[str, tuple[str, tuple[str, ...]]] = {}
    for objective in bench.settings.objective:
        for normalize in (False, True):
            for project in (False, True):
                options: tuple[str, ...] = (f"{objective}.normalize={normalize}", f"{objective}.project={project}")
                variants[f"{objective}, norm {_yes(normalize)}, projection {_yes(project)}"] = (objective, options)
    if "dino" in bench.settings.objective:
        variants["dino, shared heads"] = ("dino", ("dino.shared_head=True",))
        variants["dino, full augmentation"] = ("dino", ("dino.augmentation=dino",))
    table = AblationTable(
        "gradient alone, by head", ["accuracy"], list(variants), published=("paper-6", "paper-15a", "paper-15b")
    )
    for seed in bench.settings.all_seeds:
        for row, (objective, options) in variants.items():
            label = row.replace(", ", "-").replace(" ", "-")
            table.add(row, "accuracy", _score_of_gradient(bench, label, seed, objective, options))
    return table


@ablation("raw")
def raw(bench: Bench) -> AblationTable:
    """Compare raw and projected gradients, of the weight alone and without PCA (author response, table 28)."""
    size = bench.settings.projection_dim or 768
    rows: dict[str, Changes] = {
        "raw gradient": {"projection_kind": NO_PROJECTION, "projection_dim": 0},
        f"projected to {size}": {"projection_dim": size},
    }
    objectives = bench.settings.objective
    table = AblationTable("gradient alone, raw and projected", objectives, list(rows), published=("rebuttal-28",))
    for seed in bench.settings.all_seeds:
        for row, changes in rows.items():
            features = bench.gradients(row.replace(" ", "-"), seed, bias=False, **changes)
            for name in objectives:
                table.add(row, name, bench.score(features, [name], "none"))
    return table


@ablation("throughput")
def throughput(bench: Bench) -> AblationTable:
    """Measure images and kNN queries per second, of the embeddings and with each gradient (table 22)."""
    columns, names = (IMAGES_PER_SECOND, QUERIES_PER_SECOND), bench.settings.objective
    rows = [EMBEDDINGS, *(f"{EMBEDDINGS}+{name}" for name in names)]
    table = AblationTable("speed", columns, rows, published=("paper-22",))
    table.notes.append(
        f"on {bench.context.device}, without decoding; embeddings and gradients are measured separately."
    )
    embeddings = bench.embeddings()
    for row, name in zip(rows, (EMBEDDINGS, *names), strict=True):
        changes: Changes = {} if name == EMBEDDINGS else {"objective": (name,)}
        features = embeddings
        if changes:
            features = embeddings | bench.gradients(f"objective-{name}", bench.settings.seed, **changes)
        table.add(row, IMAGES_PER_SECOND, bench.images_per_second(name, **changes))
        table.add(row, QUERIES_PER_SECOND, bench.queries_per_second(features, row.split("+")))
    return table


@ablation("times")
def times(bench: Bench) -> AblationTable:
    """Measure the time of a projection, of fitting PCA and of applying it to the train rows (author response)."""
    if bench.settings.projection_kind == NO_PROJECTION:
        raise FungiError(f"--ablation times measures a projection: leave out --projection-kind {NO_PROJECTION}.")
    names = (EMBEDDINGS, *bench.settings.objective)
    rows = [projecting, fitting, applying] = ["projection of 8 gradients", "fitting PCA", "PCA of the train rows"]
    table = AblationTable("time", [MILLISECONDS], rows)
    features = bench.embeddings() | bench.gradients("default", bench.settings.seed)
    count = features.arrays["train"][EMBEDDINGS].rows
    table.notes.append(f"on {bench.context.device}; PCA of {name_of(names)}, {count} train rows in memory.")
    table.add(projecting, MILLISECONDS, bench.milliseconds_to_project(8))
    for row, duration in zip((fitting, applying), bench.milliseconds_of_pca(features, names), strict=True):
        table.add(row, MILLISECONDS, duration)
    return table


@ablation("objectives")
def objectives(bench: Bench) -> AblationTable:
    """Compare the gradient of each objective alone with the embeddings (figure 10)."""
    names = bench.settings.objective
    table = AblationTable("single features", ["accuracy"], [EMBEDDINGS, *names])
    table.notes.append("the paper shows these values only in figure 10.")
    table.add(EMBEDDINGS, "accuracy", bench.score(bench.embeddings(), [EMBEDDINGS]))
    for seed in bench.settings.all_seeds:
        for name in names:
            table.add(name, "accuracy", _score_of_gradient(bench, f"objective-{name}", seed, name, ()))
    return table


def _table_of_gradients(bench: Bench, title: str, rows: dict[str, Changes], published: str) -> AblationTable:
    """Return a table whose rows are variations of the gradient source.

    Columns: all features together, then the gradients of each objective alone.
    """
    names = bench.settings.objective
    full = "+".join([EMBEDDINGS, *names])
    table = AblationTable(title, [full, *names], list(rows), published=(published,))
    table.notes.append("the response does not name the objectives of its feature.")
    embeddings = bench.embeddings()
    for seed in bench.settings.all_seeds:
        for row, changes in rows.items():
            features = bench.gradients(row.replace(" ", "-").replace("+", "and"), seed, **changes)
            gradients = list(features.arrays["train"])
            table.add(row, full, bench.score(embeddings | features, [EMBEDDINGS, *gradients]))
            for name in names:
                of_objective = [gradient for gradient in gradients if gradient.partition("@")[0] == name]
                table.add(row, name, bench.score(features, of_objective))
    return table


def _score_of_gradient(bench: Bench, label: str, seed: int, objective: str, options: tuple[str, ...]) -> float:
    features = bench.gradients(label, seed, objective=(objective,), set=options)
    return bench.score(features, [objective])


def _blocks(bench: Bench) -> list[int]:
    """Return the numbers of the model's blocks. Raises FungiError if the model has no `blocks`, as timm names them."""
    model: Any = bench.context.backbone.model
    if not hasattr(model, "blocks"):
        raise FungiError(f"{bench.context.backbone.spec.name} has no transformer blocks, which this ablation varies.")
    return list(range(len(model.blocks)))


def _patches(bench: Bench, grid: int, stride_scale: int) -> int:
    return bench.context.backbone.input.views("patches", grid=grid, stride_scale=stride_scale).n_views


def _yes(value: bool) -> str:
    return "yes" if value else "no"
