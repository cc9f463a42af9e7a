"""From a stage's settings to the features it extracts: layers, projections, objectives, the engine; and their cost."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fungi.backbones.base import BACKBONES, BackboneSpec
from fungi.backbones.encoders import Encoded
from fungi.backbones.position_embedding import patch_size_of, scaling_of
from fungi.backbones.residual_stream import with_short_residual
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

SHORT_RESIDUAL = "bfloat16, residual stream too"
"""Dtype of the files of `--residual-dtype bfloat16`."""


class _ShortProductsEngine(GradientEngine):
    """An engine that encodes with shortened float32 products (TF32)."""

    def encode(self, batch: Any, views: ViewGenerator) -> Encoded:
        """Return the latents `[b v ...]` of all views of a collated batch."""
        with tf32_products(self.device):
            return super().encode(batch, views)


def embedding_feature(context: StageContext, dtype: str = "float32", shared: GradientEngine | None = None) -> Feature:
    """Return the embeddings as a feature to extract.

    shared: the engine of the gradients that are extracted with them. FungiError if tf32 is asked for and the device
    or the dtype has none.
    """
    short = context.settings.embedding_precision == "tf32"
    if short and (context.device.type != "cuda" or dtype != "float32"):
        raise FungiError("--embedding-precision tf32 is for float32 embeddings on a GPU. Leave it out.")
    engine = (_ShortProductsEngine if short else GradientEngine)(
        context.backbone.model,
        device=context.device,
        dtype=choose_dtype(dtype, context.device),
        views_per_forward=context.settings.views_per_forward,
    )
    feature = core.embedding_feature(engine, None if short else shared, context.backbone.input.views("plain"))
    return Feature(feature.name, feature.views, feature.engine, precision="tf32" if short else "")


def gradient_features(settings: GradientSettings, context: StageContext) -> list[Feature]:
    """Return one feature per objective, and the embeddings first where they are asked for."""
    _require_views(settings, context)
    targets = find_layers(context, settings.layer, bias=settings.bias)
    projected = () if settings.projection_kind == NO_PROJECTION else targets
    matrices = {target.name: find_matrix(settings, context, target) for target in projected}
    engine = build_engine(settings, context, targets, matrices)
    logger.info(f"gradients of {', '.join(target.spec for target in targets)}; path: {engine.encoder.path}")
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
    """Raise FungiError before anything is loaded, for options that an objective of a known backbone does not have."""
    if settings.backbone in BACKBONES:
        _with_views(settings, BACKBONES[settings.backbone].input)


def _require_views(settings: GradientSettings, context: StageContext) -> None:
    """Raise FungiError before anything is drawn, for objectives that the modality has no views for."""
    fitting = _with_views(settings, context.backbone.input)
    lacking = [name for name in settings.objective if name not in fitting]
    if lacking:
        modality = context.backbone.spec.modality
        fitting = [name for name in settings.objective if name in fitting]
        raise FungiError(
            f"{', '.join(lacking)}: no views of {modality} there. Use --objective {' '.join(fitting or ['kl'])}."
        )


def _with_views(settings: GradientSettings, input_spec: InputSpec) -> list[str]:
    """Return the objectives, named by --objective or --set, that have views of this input.

    Raises FungiError for an objective or an option that does not exist.
    """
    options, fitting = parse_options(settings.set), []
    for name in dict.fromkeys((*settings.objective, *options)):
        with suppress(NoViewsError):
            bind(name, embedding_dim=1, input_spec=input_spec, seed=settings.seed, options=options.get(name))
            fitting.append(name)
    return fitting


def find_layers(context: StageContext, texts: tuple[str, ...], *, bias: bool) -> tuple[Target, ...]:
    """Return the gradient sources in the backbone; its usual one where none is named."""
    spec = context.backbone.spec
    targets = []
    for text in texts or (f"{spec.layer}:attn_proj",):
        path, part, name = split_spec(text)
        renamed = spec.layer_path(path) + (f"[{part}]" if part else "") + f":{name}"
        targets.append(find_target(context.backbone.model, renamed, bias=bias))
    return unique_names(targets)


def find_matrix(settings: GradientSettings, context: StageContext, target: Target) -> ProjectionMatrix:
    """Return the projection for a target: a named file of its width, or else the usual one, drawn if it is missing."""
    if settings.projection_matrix:
        matrices = [load_projection(path) for path in settings.projection_matrix]
        shapes = (0, target.shape[0])  # 0: a matrix for layers of any shape
        fitting = [
            matrix for matrix in matrices if matrix.gradient_dim == target.gradient_dim and matrix.outputs in shapes
        ]
        if not fitting:
            widths = ", ".join(
                f"{matrix.gradient_dim} ({p})" for p, matrix in zip(settings.projection_matrix, matrices, strict=True)
            )
            raise FungiError(
                f"no projection matrix fits the gradient of {target.spec} ({target.gradient_dim} wide); "
                f"widths of --projection-matrix: {widths}. "
                f"Draw one with fungi projection --gradients-dim {target.gradient_dim}."
            )
        return fitting[0]
    size, path = settings.usual_matrix(context.backbone.spec.projection_dim, target.shape)
    way_out = (
        "Use --projection-kind khatri-rao, which needs little memory, a smaller --projection-dim, or another --layer."
    )
    require_memory(settings.projection_kind, size, target.shape, context.device, context.dtype, way_out)
    if not path.exists():
        kind, outputs = settings.projection_kind, target.shape[0]
        matrix = draw_projection(size, target.gradient_dim, kind=kind, seed=settings.seed, outputs=outputs)
        save_projection(matrix, path)
        print(f"wrote {path}")
    matrix = load_projection(path)
    expected = (settings.projection_kind, settings.seed, size, target.gradient_dim)
    stored = (matrix.kind, matrix.seed, matrix.projection_dim, matrix.gradient_dim)
    if stored != expected:
        held, named = (f"{kind} with seed {seed}, {p} x {g}" for kind, seed, p, g in (stored, expected))
        raise FungiError(
            f"{path} holds another matrix than its name says: {held}, not {named}. Remove it, so that the right one is"
            " drawn, or name a matrix with --projection-matrix."
        )
    return matrix


def build_engine(
    settings: GradientSettings,
    context: StageContext,
    targets: Sequence[Target],
    matrices: dict[str, ProjectionMatrix],
    stopwatch: Stopwatch | None = None,
) -> GradientEngine:
    """Return the engine for these targets, with the deviations of the profile."""
    profile, spec = choose_profile(settings.profile), context.backbone.spec
    return assembly.build_engine(
        _encoded_model(settings, context, targets),
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


def _encoded_model(settings: GradientSettings, context: StageContext, targets: Sequence[Target]) -> nn.Module:
    """Return the backbone, or its copy with a residual stream in bfloat16 if the settings ask for it.

    Raises FungiError if the rest of the model is not computed in bfloat16, or if the model has no such copy.
    """
    model: nn.Module = context.backbone.model
    if settings.residual_dtype == "float32":
        return model
    if context.dtype != torch.bfloat16:
        raise FungiError("--residual-dtype bfloat16 needs --dtype bfloat16. Add it, or leave both out.")
    return with_short_residual(model, [target.path for target in targets])


def _precision(settings: GradientSettings) -> str:
    return SHORT_RESIDUAL if settings.residual_dtype == "bfloat16" else ""


def bound_objectives(settings: GradientSettings, context: StageContext, engine: GradientEngine) -> list[BoundObjective]:
    """Return the objectives with heads and supporting data, on the device."""
    options, model = parse_options(settings.set), context.backbone.model
    plan = ViewPlan(settings.views, patch_size_of(model))
    bound = []
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
        bound.append(with_support(objective.to(context.device), context, engine, _precision(settings)))
    return bound


def _layer_provenances(targets: Sequence[Target], matrices: dict[str, ProjectionMatrix]) -> dict[str, LayerProvenance]:
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
    """Return forwards, operations where they are known, and size of the files, of `rows` rows."""
    forwards = rows * core.forwards_per_sample(features)
    widths = [
        sum(projector.matrix.projection_dim for projector in feature.engine.projectors.values())
        if feature.objective
        else spec.embedding_dim
        for feature in features
    ]
    passes = counted(forwards, "forward") + ("" if float(forwards).is_integer() else " of the full input size")
    work = f" of {spec.flops / 1e9:.3g} GFLOP = {forwards * spec.flops / 1e12:.3g} TFLOP" if spec.flops else ""
    return f"{counted(rows, 'row')}, {passes}{work}; {size_in_words(rows * sum(widths) * 4)} of features"
