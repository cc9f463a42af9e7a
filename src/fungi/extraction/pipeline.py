"""Extract the features of a split in one pass: decode each row once, and compute all missing features block by block.

`extract.py` uses this module for embeddings. `extract_gradients.py` uses it for one or more objectives and, optionally,
embeddings.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import dropwhile
from pathlib import Path

import torch

from fungi.data.base import Samples
from fungi.data.damage import damage_error, damaged_items
from fungi.errors import FungiError, UnreadableItemError, counted
from fungi.extraction.context import StageContext
from fungi.extraction.stage import StageSettings
from fungi.extraction.work import Feature, Work
from fungi.extraction.writing import WAITING_BLOCKS, HostBlock, start_copy, write_block
from fungi.gradients import core
from fungi.runtime.background import in_background
from fungi.runtime.compiled_code import share_compiled_code
from fungi.runtime.device import device_name
from fungi.runtime.log import logger, progress
from fungi.runtime.owner import remove_orphans
from fungi.runtime.tracking import RowRate
from fungi.settings import as_json
from fungi.store.assembly import assemble, check_finished, is_finished, versions_of
from fungi.store.blocks import BlockFolder, Manifest, Span
from fungi.store.code_version import CodeVersion, current_version, difference, distinct, require_one_version
from fungi.store.provenance import Provenance
from fungi.store.shard import Shard
from fungi.views.base import HasRemarks
from fungi.views.loading import Batch, batches, row_batches
from fungi.views.plans import PUBLISHED

COMPILED_FROM = 9_000_000
"""Number of forward passes from which compiling the encoder saves time on a GPU. Compiling takes 60 to 120 seconds per
process, and makes a forward pass of ViT-B/16 about 10 microseconds shorter on an H200 (calculated, not measured)."""


def extract_split(context: StageContext, split: str, features: Sequence[Feature]) -> None:
    """Compute the missing blocks of this shard for a split, and assemble the files whose blocks are complete.

    Raises FungiError with a list of the damaged items, if items can't be read.
    """
    samples = context.open_split(split)
    works = [work for feature in features if (work := _remaining_work(context, split, samples, feature)) is not None]
    if not works:
        return
    shard = Shard.parse(context.settings.shard)
    spans = [span for span in works[0].blocks.manifest.spans() if shard.takes(span.index)]
    spans = [span for span in spans if any(span.index in work.missing for work in works)]
    if should_compile(context, features):
        _compile(context, features)
    try:
        _compute(context, split, samples, works, spans)
    except UnreadableItemError as error:
        raise _error_of_damaged_items(context, split, spans, error) from None
    views_with_remarks = [work.feature.views for work in works if isinstance(work.feature.views, HasRemarks)]
    for remark in dict.fromkeys(remark for views in views_with_remarks for remark in views.remarks()):
        logger.warning(f"{split}: {remark}")
    for work in works:
        _finish(work, shard, context.settings)


def _error_of_damaged_items(
    context: StageContext, split: str, spans: Sequence[Span], first_error: FungiError
) -> FungiError:
    """Return an error that names all damaged items of this shard, in `spans` of `split` and in all later splits."""
    logger.warning("an item can't be read; checking the other items too, to name all damaged items")
    shard, block_size = Shard.parse(context.settings.shard), context.settings.block_size
    rows_of = {split: [row for span in spans for row in range(span.start, span.stop)]}
    later_splits = list(dropwhile(lambda name: name != split, context.splits))[1:]
    for name in later_splits:
        rows_of[name] = [row for row in range(len(context.open_split(name))) if shard.takes(row // block_size)]
    damaged = [
        damaged_items(context.open_split(name), rows, label=f"{name}: looking for damaged items")
        for name, rows in rows_of.items()
    ]
    advice = "Replace them, or use --skip-damaged to leave them out."
    total = sum(len(context.open_split(name)) for name in rows_of)
    return damage_error(damaged, total, advice=advice) if any(damaged) else first_error


def _remaining_work(context: StageContext, split: str, samples: Samples, feature: Feature) -> Work | None:
    """Return the remaining work for a feature; None if the file of the feature already exists."""
    settings = context.settings
    path = settings.layout.features(feature.name, context.dataset.name, context.backbone.spec.name, split)
    code_version = current_version()
    provenance = Provenance(
        **context.base_provenance(split, samples),
        feature=feature.name,
        dtype=feature.dtype_name,
        objective_settings=feature.objective.settings if feature.objective else {},
        views=feature.objective.plan if feature.objective else PUBLISHED,
        support_hash=feature.objective.support_hash if feature.objective else "",
        settings=as_json(settings),
        versions=code_version.versions,
        commit=code_version.commit,
    )
    class_names = () if feature.objective else tuple(samples.class_names)
    manifest = Manifest(
        str(path.relative_to(settings.root)), provenance, feature.layers, settings.block_size, class_names
    )
    blocks = BlockFolder(settings.layout.blocks(path, manifest.key), manifest)
    if _is_done(path, manifest, overwrite=settings.overwrite):
        blocks.remove()  # an earlier run may have been killed after it wrote the file
        remove_orphans(path.parent)
        print(f"kept {path}: already computed in the same way{_other_version(path, code_version)}")
        return None
    blocks = BlockFolder.create(blocks.folder, manifest)
    _handle_other_versions(blocks, path, settings)
    return Work(feature, blocks, path, frozenset(span.index for span in blocks.missing()))


def _other_version(path: Path, code_version: CodeVersion) -> str:
    """Return the end of a message that says how the version that wrote a file differs; empty if it is this version."""
    differences = [text for other in versions_of(path) if (text := difference(other, code_version))]
    if not differences:
        return ""
    return f", by another version of the program ({differences[0]}); use --overwrite to compute it again"


def _handle_other_versions(blocks: BlockFolder, path: Path, settings: StageSettings) -> None:
    """Drop, accept or refuse blocks of another version of the program, depending on the settings."""
    other_versions = {
        span: code_version
        for span, code_version in blocks.code_versions().items()
        if difference(code_version, current_version())
    }
    if other_versions and settings.overwrite:
        blocks.drop(other_versions)
    elif other_versions:
        all_versions = [*distinct(other_versions.values()), current_version()]
        require_one_version(all_versions, str(path), accept=settings.accept_other_versions)
        logger.warning(f"{path}: accepted {counted(len(other_versions), 'block')} of another version of the program.")


def _compute(
    context: StageContext,
    split: str,
    samples: Samples,
    works: Sequence[Work],
    spans: Sequence[Span],
) -> None:
    """Compute and write the missing blocks.

    A batch belongs to one block only, so that the content of a block does not depend on shards and interruptions.
    """
    finished = len(works[0].blocks.manifest.spans()) - len({index for work in works for index in work.missing})
    if finished:
        logger.info(f"{split}: already computed: {counted(finished, 'block')}")
    batch_rows = [rows for span in spans for rows in row_batches(span.start, span.stop, context.settings.batch_size)]
    loaded = batches(
        samples,
        [work.feature.views for work in works],
        batch_rows,
        seed=context.settings.seed,
        num_workers=context.num_workers,
        pin_memory=context.device.type == "cuda",
    )
    unit = {"vision": "image", "audio": "sound"}.get(context.backbone.spec.modality, "text")
    loaded_with_bar = progress(loaded, [len(rows) for rows in batch_rows], label=split, unit=unit)
    rate = RowRate(split)
    computed_on = device_name(context.device)
    with in_background(WAITING_BLOCKS) as submit:
        for span in spans:
            incomplete = [work for work in works if span.index in work.missing]
            features = [work.feature for work in incomplete]
            block = _compute_block(loaded_with_bar, features, span, context.settings.batch_size, context.device)
            submit(partial(write_block, block, incomplete, samples, span, computed_on))
            rate.add(len(span))
    next(loaded_with_bar, None)  # the bar counts a batch as done when the next batch is requested


def should_compile(context: StageContext, features: Sequence[core.Feature]) -> bool:
    """Return whether to compile the encoder.

    The choice depends only on the settings and the dataset, not on the remaining work. Compiled code rounds
    differently, so all shards and resumed runs of a command must make the same choice.
    """
    if context.settings.compile != "auto":
        return context.settings.compile == "on"
    rows = sum(len(context.open_split(split)) for split in context.splits)
    return context.device.type != "cpu" and rows * core.forwards_per_sample(features) >= COMPILED_FROM


def _compile(context: StageContext, features: Sequence[Feature]) -> None:
    """Compile the encoders of the features. With --compile auto, do nothing if there is no C compiler."""
    if context.settings.compile == "auto" and not _c_compiler():
        logger.warning(
            "not compiled: there is no C compiler here ($CC, gcc or clang). Extraction takes about 10 % longer."
        )
        return
    # With --compile auto, a machine that can't compile for another reason continues with code that is not compiled.
    torch._dynamo.config.suppress_errors = context.settings.compile == "auto"
    share_compiled_code(context.settings.layout.compiled, context.device)
    logger.info("compiling the encoder: the first batches take longer (--compile off avoids this)")
    for engine in {id(feature.engine): feature.engine for feature in features}.values():
        engine.compile()


def _c_compiler() -> str:
    """Return the C compiler that Triton would call, or an empty text."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or ""


def _compute_block(
    loaded: Iterator[Batch], features: Sequence[Feature], span: Span, batch_size: int, device: torch.device
) -> HostBlock:
    """Compute all features of a block and queue their copy to the host."""
    batch_rows = row_batches(span.start, span.stop, batch_size)
    return start_copy([core.compute(next(loaded), features) for _ in batch_rows], device)


def _is_done(path: Path, manifest: Manifest, *, overwrite: bool) -> bool:
    """Return whether the finished file exists and may stay.

    Raises FungiError if the file is damaged or has another provenance, unless `overwrite` is set.
    """
    try:
        if not check_finished(path, manifest):
            return False
    except FungiError:
        if overwrite:
            return False
        raise
    return not (overwrite and any(difference(code_version, current_version()) for code_version in versions_of(path)))


def _finish(work: Work, shard: Shard, settings: StageSettings) -> None:
    """Assemble the feature file if all its blocks exist, and print the state of the file."""
    missing = work.blocks.missing()
    if missing and is_finished(work.path, work.blocks.manifest):
        work.blocks.remove()
        print(f"kept {work.path}: finished by another process in the meantime")
        return
    if missing:
        print(
            f"shard {shard.index}/{shard.count} of {work.path} is done;"
            f" {counted(len(missing), 'block')} of other shards missing"
        )
        return
    assemble(work.blocks, work.path, accept=settings.accept_other_versions)
    layers = work.feature.layers
    arrays = ", ".join(f"{name} ({layers[name].layer})" for name in layers) or "embeddings, targets"
    print(f"wrote {work.path}: {counted(work.blocks.manifest.provenance.rows, 'row')} of {arrays}")
