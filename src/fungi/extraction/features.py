"""Build the features to extract from the settings of a stage: layers, projections, objectives and engine."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fungi.backbones.base import BACKBONES, BackboneSpec
from fungi.backbones.encoders import Encoded
from fungi.backbones.position_embedding import patch_size_of, scaling_of
from fungi.backbones.residual_stream import with_residual_dtype
from fungi.errors import FungiError, counted
from fungi.extraction.context import StageContext
from fungi.extraction.gradient_settings import NO_PROJECTION, GradientSettings, parse_options
from fungi.extraction.support import with_support
from fungi.extraction.work import Feature
from fungi.gradients import assembly, core
from fungi.gradients.engine import GradientEngine
from fungi.gradients.projection import ProjectionMatrix, draw_projection, load_projection, save_projection
from fungi.gradients.projection_memory import require_memory
from fungi.gradients.targets import Target, find_target, split_spec, unique_names
from fungi.objectives.binding import BoundObjective, bind
from fungi.profiles import choose_profile
from fungi.runtime.device import Stopwatch, choose_dtype
from fungi.runtime.log import logger, size_in_words
from fungi.runtime.precision import tf32_products
from fungi.store.provenance import LayerProvenance
from fungi.views.base import InputSpec, NoViewsError, OwnSizes, ViewGenerator
from fungi.views.plans import ViewPlan

BFLOAT16_RESIDUAL = "bfloat16, residual stream too"
"""Dtype that feature files of `--residual-dtype bfloat16` state."""


class _TF32Engine(GradientEngine):
    """An engine that encodes with float32 products in TF32."""

    def encode(self, batch: Any, views: ViewGenerator) -> Encoded:
        """Return the output of the encoder, `[b v ...]`, for all views of a collated batch."""
        with tf32_products(self.device):
            return super().encode(batch, views)


def embedding_feature(context: StageContext, dtype: str = "float32", shared: GradientEngine | None = None) -> Feature:
    """Return the embeddings as a feature to extract.

    shared: engine of the gradients, if gradients are extracted in the same pass. Raises FungiError if the settings
    choose tf32, but the device or the dtype does not support it.
    """
    tf32 = context.settings.embedding_precision == "tf32"
    if tf32 and (context.device.type != "cuda" or dtype != "float32"):
        raise FungiError("--embedding-precision tf32 is for float32 embeddings on a GPU. Leave it out.")
    engine = (_TF32Engine if tf32 else GradientEngine)(
        context.backbone.model,
        device=context.device,
        dtype=choose_dtype(dtype, context.device),
        views_per_forward=context.settings.views_per_forward,
    )
    feature = core.embedding_feature(engine, None if tf32 else shared, context.backbone.input.views("plain"))
    return Feature(feature.name, feature.views, feature.engine, precision="tf32" if tf32 else "")


def gradient_features(settings: GradientSettings, context: StageContext) -> list[Feature]:
    """Return one feature per objective; with `settings.with_embeddings`, the embeddings come first."""
    _require_views(settings, context)
    targets = find_layers(context, settings.layer, bias=settings.bias)
    targets_to_project = () if settings.projection_kind == NO_PROJECTION else targets
    matrices = {target.name: find_matrix(settings, context, target) for target in targets_to_project}
    engine = build_engine(settings, context, targets, matrices)
    logger.info(
        f"gradients of {', '.join(target.spec for target in targets)}; computed: {engine.encoder.computed_part}"
    )
    provenances = _layer_provenances(targets, matrices)
    features = [
        Feature(
            bound.name,
            bound.views,
            engine.with_encoder(bound.objective.encoder),
            bound.loss,
            bound,
            provenances,
            _precision(settings),
        )
        for bound in bound_objectives(settings, context, engine)
    ]
    return [embedding_feature(context, shared=engine), *features] if settings.with_embeddings else features


def require_options(settings: GradientSettings) -> None:
    """Check the options in --set for a registered backbone, before anything is loaded.

    Raises FungiError for options that the objective does not have.
    """
    if settings.backbone in BACKBONES:
        _objectives_with_views(settings, BACKBONES[settings.backbone].input)


def _require_views(settings: GradientSettings, context: StageContext) -> None:
    """Raise FungiError if an objective has no views for the modality of the backbone."""
    with_views = _objectives_with_views(settings, context.backbone.input)
    without_views = [name for name in settings.objective if name not in with_views]
    if without_views:
        modality = context.backbone.spec.modality
        possible = [name for name in settings.objective if name in with_views] or ["kl"]
        raise FungiError(
            f"{', '.join(without_views)}: no views of {modality} exist. Use --objective {' '.join(possible)}."
        )


def _objectives_with_views(settings: GradientSettings, input_spec: InputSpec) -> list[str]:
    """Return the names of the objectives in --objective or --set that have views of this input.

    Raises FungiError for an objective or an option that does not exist.
    """
    options, names = parse_options(settings.set), []
    for name in dict.fromkeys((*settings.objective, *options)):
        with suppress(NoViewsError):
            bind(name, embedding_dim=1, input_spec=input_spec, seed=settings.seed, options=options.get(name))
            names.append(name)
    return names


def find_layers(context: StageContext, texts: tuple[str, ...], *, bias: bool) -> tuple[Target, ...]:
    """Return the target layers in the backbone; without `texts`, the default layer of the backbone.

    texts: layers as `path.to.layer:name`.
    """
    spec = context.backbone.spec
    targets = []
    for text in texts or (f"{spec.layer}:attn_proj",):
        path, part, name = split_spec(text)
        layer = spec.layer_path(path) + (f"[{part}]" if part else "") + f":{name}"
        targets.append(find_target(context.backbone.model, layer, bias=bias))
    return unique_names(targets)


def find_matrix(settings: GradientSettings, context: StageContext, target: Target) -> ProjectionMatrix:
    """Return the projection matrix for a target: a file in the settings, or the default matrix.

    The default matrix is drawn and stored if its file does not exist. Raises FungiError if the stored matrix is not the
    default matrix, or if no matrix of the user fits.
    """
    if settings.projection_matrix:
        return _matrix_of_user(settings.projection_matrix, target)
    size, path = settings.default_matrix(context.backbone.spec.projection_dim, target.shape)
    advice = (
        "Use --projection-kind khatri-rao, which needs little memory, a smaller --projection-dim, or another --layer."
    )
    require_memory(settings.projection_kind, size, target.shape, context.device, context.dtype, advice)
    if not path.exists():
        kind, outputs = settings.projection_kind, target.shape[0]
        matrix = draw_projection(size, target.gradient_dim, kind=kind, seed=settings.seed, outputs=outputs)
        save_projection(matrix, path)
        print(f"wrote {path}")
    matrix = load_projection(path)
    expected = (settings.projection_kind, settings.seed, size, target.gradient_dim)
    stored = (matrix.kind, matrix.seed, matrix.projection_dim, matrix.gradient_dim)
    if stored != expected:
        raise FungiError(
            f"{path} holds another matrix than its name says: {_matrix_in_words(*stored)}, not"
            f" {_matrix_in_words(*expected)}. Remove the file, and the right matrix is drawn, or name a matrix with"
            " --projection-matrix."
        )
    return matrix


def _matrix_in_words(kind: str, seed: int, projection_dim: int, gradient_dim: int) -> str:
    """Return a text such as `binary with seed 42, 768 x 590592`."""
    return f"{kind} with seed {seed}, {projection_dim} x {gradient_dim}"


def _matrix_of_user(paths: Sequence[Path], target: Target) -> ProjectionMatrix:
    """Return the first matrix in the files that fits a target. Raises FungiError if no matrix fits."""
    matrices = [load_projection(path) for path in paths]
    outputs = (0, target.shape[0])  # 0: a matrix for layers of any shape
    for matrix in matrices:
        if matrix.gradient_dim == target.gradient_dim and matrix.outputs in outputs:
            return matrix
    widths = ", ".join(f"{matrix.gradient_dim} ({path})" for path, matrix in zip(paths, matrices, strict=True))
    raise FungiError(
        f"no projection matrix fits the gradient of {target.spec} ({target.gradient_dim} wide); "
        f"widths of --projection-matrix: {widths}. "
        f"Draw a matrix with fungi projection --gradients-dim {target.gradient_dim}."
    )


def build_engine(
    settings: GradientSettings,
    context: StageContext,
    targets: Sequence[Target],
    matrices: dict[str, ProjectionMatrix],
    stopwatch: Stopwatch | None = None,
) -> GradientEngine:
    """Return the engine for the targets, with the deviations of the profile.

    matrices: target name -> projection matrix. stopwatch: as in `GradientEngine`.
    """
    profile, spec = choose_profile(settings.profile), context.backbone.spec
    paths = [target.path for target in targets]
    model = with_residual_dtype(context.backbone.model, settings.residual_dtype, paths, dtype=context.dtype)
    return assembly.build_engine(
        model,
        targets,
        matrices,
        device=context.device,
        dtype=context.dtype,
        views_per_forward=settings.views_per_forward,
        attention_input=profile.attention_input and spec.attention_input,
        first_token_gradient=profile.first_token_gradient and spec.first_token_gradient,
        short_cut=settings.short_cut,
        stopwatch=stopwatch,
    )


def _precision(settings: GradientSettings) -> str:
    """Return the precision that feature files state instead of the dtype (`Feature.precision`)."""
    return BFLOAT16_RESIDUAL if settings.residual_dtype == "bfloat16" else ""


def bound_objectives(settings: GradientSettings, context: StageContext, engine: GradientEngine) -> list[BoundObjective]:
    """Return the objectives of the settings with heads and supporting data, on the device."""
    options, model = parse_options(settings.set), context.backbone.model
    plan = ViewPlan(settings.views, patch_size_of(model))
    objectives = []
    for name in settings.objective:
        objective = bind(
            name,
            embedding_dim=context.backbone.spec.embedding_dim,
            input_spec=context.backbone.input,
            seed=settings.seed,
            options=options.get(name),
            plan=plan,
        )
        if isinstance(objective.views, OwnSizes) and set(objective.views.sizes) != {objective.views.input_size}:
            objective = replace(objective, scaling=scaling_of(model))
        objectives.append(with_support(objective.to(context.device), context, engine, _precision(settings)))
    return objectives


def _layer_provenances(targets: Sequence[Target], matrices: dict[str, ProjectionMatrix]) -> dict[str, LayerProvenance]:
    """Return target name -> provenance of its layer and projection. Without matrices, gradients are not projected."""
    return {
        target.name: LayerProvenance(
            layer=target.spec,
            bias=target.bias,
            projection_hash=matrices[target.name].hash if matrices else "",
            projection_kind=matrices[target.name].kind if matrices else NO_PROJECTION,
            projection_seed=matrices[target.name].seed if matrices else -1,
        )
        for target in targets
    }


def cost_of(spec: BackboneSpec, rows: int, features: Sequence[Feature]) -> str:
    """Return a text with the cost of `rows` rows: forward passes, operations (if known) and size of the files."""
    forwards = rows * core.forwards_per_sample(features)
    numbers_per_row = sum(_numbers_per_row(feature, spec) for feature in features)
    passes = counted(forwards, "forward") + ("" if float(forwards).is_integer() else " of the full input size")
    operations = f" of {spec.flops / 1e9:.3g} GFLOP = {forwards * spec.flops / 1e12:.3g} TFLOP" if spec.flops else ""
    feature_bytes = rows * numbers_per_row * 4  # float32
    return f"{counted(rows, 'row')}, {passes}{operations}; {size_in_words(feature_bytes)} of features"


def _numbers_per_row(feature: Feature, spec: BackboneSpec) -> int:
    """Return the number of entries of a feature; for gradients, the sum over all target layers."""
    if feature.objective is None:
        return spec.embedding_dim
    projectors = feature.engine.projectors
    return sum(
        projectors[target.name].matrix.projection_dim if target.name in projectors else target.gradient_dim
        for target in feature.engine.targets
    )
