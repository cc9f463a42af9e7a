"""One pass over the rows of a split: decode once, compute every feature that is missing, block by block.

Both stages run through here: `extract.py` asks for embeddings, `extract_gradients.py` for one or more objectives and
perhaps the embeddings with them.
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
from fungi.store.code_version import CodeVersion, current_version, difference, distinct, require_one
from fungi.store.provenance import Provenance
from fungi.store.shard import Shard
from fungi.views.base import HasRemarks
from fungi.views.loading import Batch, batches, row_batches
from fungi.views.plans import PUBLISHED

COMPILED_FROM = 9_000_000
"""Forwards from which on compiled code saves a GPU more time than compiling takes: each process pays 60 to 120 seconds,
and a forward of ViT-B/16 becomes about 10 microseconds shorter on an H200 (expected by arithmetic, not measured)."""


def extract_split(context: StageContext, split: str, features: Sequence[Feature]) -> None:
    """Do this shard's missing blocks of a split, and assemble the files whose blocks are all there."""
    samples = context.open_split(split)
    planned = [_plan(context, split, samples, feature) for feature in features]
    works = [work for work in planned if work is not None]
    if not works:
        return
    shard = Shard.parse(context.settings.shard)
    spans = [span for span in works[0].blocks.manifest.spans() if shard.takes(span.index)]
    spans = [span for span in spans if any(span.index in work.missing for work in works)]
    if compiles(context, features):
        _compile(context, features)
    try:
        _compute(context, split, samples, works, spans)
    except UnreadableItemError as error:
        raise _all_damaged(context, split, spans, error) from None
    remarking = [work.feature.views for work in works if isinstance(work.feature.views, HasRemarks)]
    for remark in dict.fromkeys(text for views in remarking for text in views.remarks()):
        logger.warning(f"{split}: {remark}")
    for work in works:
        _finish(work, shard, context.settings)


def _all_damaged(context: StageContext, split: str, spans: Sequence[Span], first: FungiError) -> FungiError:
    """Return the error that names all damaged items: those of `spans`, and this shard's of the splits after `split`."""
    logger.warning("an item can't be read; the others are being checked, too, so that all damaged ones can be named")
    shard, block_size = Shard.parse(context.settings.shard), context.settings.block_size
    rows = {split: [row for span in spans for row in range(span.start, span.stop)]}
    for later in list(dropwhile(lambda name: name != split, context.splits))[1:]:
        rows[later] = [row for row in range(len(context.open_split(later))) if shard.takes(row // block_size)]
    damaged = [
        damaged_items(context.open_split(name), of_split, label=f"{name}: looking for damaged items")
        for name, of_split in rows.items()
    ]
    advice = "Replace them, or give --skip-damaged to leave them out."
    total = sum(len(context.open_split(name)) for name in rows)
    return damage_error(damaged, total, advice=advice) if any(damaged) else first


def _plan(context: StageContext, split: str, samples: Samples, feature: Feature) -> Work | None:
    """Return what is left to do for a feature; None where its file is there already."""
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
        print(f"kept {path}: made before in the same way{_by_whom(path, code_version)}")
        return None
    blocks = BlockFolder.create(blocks.folder, manifest)
    _settle_versions(blocks, path, settings)
    return Work(feature, blocks, path, frozenset(span.index for span in blocks.missing()))


def _by_whom(path: Path, code_version: CodeVersion) -> str:
    """Return what differs from this version of the program in the one that made a file; empty where nothing does."""
    differences = [text for other in versions_of(path) if (text := difference(other, code_version))]
    return f", by another version of the program ({differences[0]}); --overwrite makes it anew" if differences else ""


def _settle_versions(blocks: BlockFolder, path: Path, settings: StageSettings) -> None:
    """Blocks of another version of the program are dropped, accepted, or refused, as the settings say."""
    others = {
        span: code_version
        for span, code_version in blocks.code_versions().items()
        if difference(code_version, current_version())
    }
    if others and settings.overwrite:
        blocks.drop(others)
    elif others:
        require_one([*distinct(others.values()), current_version()], str(path), accept=settings.accept_other_versions)
        logger.warning(f"{path}: accepted {counted(len(others), 'block')} of another version of the program.")


def _compute(
    context: StageContext,
    split: str,
    samples: Samples,
    works: Sequence[Work],
    spans: Sequence[Span],
) -> None:
    """Fill the missing blocks. Batches never cross a block, so that a block is the same whoever computes it."""
    done = len(works[0].blocks.manifest.spans()) - len({i for work in works for i in work.missing})
    if done:
        logger.info(f"{split}: already there: {counted(done, 'block')}")
    rows = [rows for span in spans for rows in row_batches(span.start, span.stop, context.settings.batch_size)]
    loaded = batches(
        samples,
        [work.feature.views for work in works],
        rows,
        seed=context.settings.seed,
        num_workers=context.num_workers,
        pin_memory=context.device.type == "cuda",
    )
    unit = {"vision": "image", "audio": "sound"}.get(context.backbone.spec.modality, "text")
    bar = progress(loaded, [len(batch) for batch in rows], label=split, unit=unit)
    rate = RowRate(split)
    computed_on = device_name(context.device)
    with in_background(WAITING_BLOCKS) as do:
        for span in spans:
            incomplete = [work for work in works if span.index in work.missing]
            features = [work.feature for work in incomplete]
            block = _compute_block(bar, features, span, context.settings.batch_size, context.device)
            do(partial(write_block, block, incomplete, samples, span, computed_on))
            rate.add(len(span))
    next(bar, None)  # the last batch is done, too


def compiles(context: StageContext, features: Sequence[core.Feature]) -> bool:
    """Return whether the encoder is compiled: a matter of the command and the dataset, never of what is left to do.

    Compiled code rounds in other places: shards and resumed runs of a command agree on it.
    """
    if context.settings.compile != "auto":
        return context.settings.compile == "on"
    rows = sum(len(context.open_split(split)) for split in context.splits)
    return context.device.type != "cpu" and rows * core.forwards_per_sample(features) >= COMPILED_FROM


def _compile(context: StageContext, features: Sequence[Feature]) -> None:
    if context.settings.compile == "auto" and not _c_compiler():
        logger.warning(
            "not compiled: there is no C compiler here ($CC, gcc or clang). Extraction takes about 10 % longer."
        )
        return
    # Where nobody asked for it, a machine that can't compile for another reason goes on without.
    torch._dynamo.config.suppress_errors = context.settings.compile == "auto"
    share_compiled_code(context.settings.layout.compiled, context.device)
    logger.info("compiling the encoder: the first batches take longer (--compile off leaves it out)")
    for engine in {id(feature.engine): feature.engine for feature in features}.values():
        engine.compile()


def _c_compiler() -> str:
    """Return the C compiler that Triton would call; an empty text if there is none."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or ""


def _compute_block(
    loaded: Iterator[Batch], features: Sequence[Feature], span: Span, batch_size: int, device: torch.device
) -> HostBlock:
    """Compute all features of a block and queue their copy to the host."""
    batch_rows = row_batches(span.start, span.stop, batch_size)
    return start_copy([core.compute(next(loaded), features) for _ in batch_rows], device)


def _is_done(path: Path, manifest: Manifest, *, overwrite: bool) -> bool:
    """Return whether the file is there. FungiError for another or a damaged file, unless it may be replaced."""
    try:
        if not check_finished(path, manifest):
            return False
    except FungiError:
        if overwrite:
            return False
        raise
    return not (overwrite and any(difference(code_version, current_version()) for code_version in versions_of(path)))


def _finish(work: Work, shard: Shard, settings: StageSettings) -> None:
    left = work.blocks.missing()
    if left and is_finished(work.path, work.blocks.manifest):
        work.blocks.remove()
        print(f"kept {work.path}: finished by another process in the meantime")
        return
    if left:
        print(
            f"shard {shard.index}/{shard.count} of {work.path} is done; of other shards, "
            f"{counted(len(left), 'block')} missing"
        )
        return
    assemble(work.blocks, work.path, accept=settings.accept_other_versions)
    layers = work.feature.layers
    shapes = ", ".join(f"{name} ({layers[name].layer})" for name in layers) or "embeddings, targets"
    print(f"wrote {work.path}: {counted(work.blocks.manifest.provenance.rows, 'row')} of {shapes}")
