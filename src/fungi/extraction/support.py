"""Supporting data of objectives (negatives, prototypes), computed once per dataset and backbone, and stored."""

import hashlib
import json
from functools import partial

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.extraction.context import StageContext
from fungi.gradients.core import embed_samples
from fungi.gradients.engine import GradientEngine
from fungi.objectives.binding import BoundObjective
from fungi.runtime.files import written_once
from fungi.runtime.log import logger
from fungi.runtime.owner import remove_orphans


def with_support(
    bound: BoundObjective, context: StageContext, engine: GradientEngine, precision: str = ""
) -> BoundObjective:
    """Return the objective with its supporting data. For every extracted split, the data come from the training split.

    precision: text for a precision that the dtype of the context does not say: `bfloat16, residual stream too`. Empty
        if the dtype says it. Data for another precision are stored in another file.
    Raises FungiError if the stored data are damaged.
    """
    if not bound.objective.needs_support:
        return bound
    train = context.open_split("train")
    path = context.settings.layout.support(
        context.dataset.name, context.backbone.spec.name, bound.name, _key(bound, context, train, precision)
    )
    remove_orphans(path.parent)
    if not path.exists():
        logger.info(f"{bound.name}: preparing supporting data from the training split")
        embed = partial(
            embed_samples,
            engine,
            views=bound.support_views,
            seed=context.settings.seed,
            batch_size=context.settings.batch_size,
            num_workers=context.num_workers,
            label=bound.name,
        )
        tensors = bound.objective.support(train, embed, bound.heads, context.settings.seed)
        with written_once(path) as temporary:
            temporary.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    try:
        return bound.with_support(load_file(path)).to(context.device)
    except SafetensorError as error:
        raise FungiError(f"{path} is damaged ({error}). Move it away and run the stage again.") from None


def _key(bound: BoundObjective, context: StageContext, train: Samples, precision: str) -> str:
    """Return a hash of everything that determines the supporting data."""
    identity = [
        bound.settings,
        context.settings.seed,
        context.backbone.weights_hash,
        train.fingerprint(),
        precision or str(context.dtype),
        context.device.type,
    ]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
