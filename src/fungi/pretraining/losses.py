"""What UDI asks of the student: image level, multimodal, patch level (spec udi 4).

Losses are sums over this process's images, divided by counts over the *whole* batch: parts add up to the same numbers
however the batch is split. Teacher logits are linear in unit vectors, so that means of logits are logits of means, and
those of local crops' patches are never formed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.pretraining.choices import TargetMix
from fungi.pretraining.cross_entropy import Targets, cross_entropy
from fungi.pretraining.network import Alignment, Predictions
from fungi.pretraining.sampling import masked_mean


@dataclass(frozen=True)
class LossOptions:
    """alpha: share of patches in the target of cls+. target_mix: mean of logits, or of distributions."""

    alpha: float = 0.5
    student_temperature: float = 0.1
    target_mix: TargetMix = "logits"


@dataclass(frozen=True)
class BatchCounts:
    """Of the whole batch: images, and valid samples of global views."""

    images: int
    patches: float


@dataclass(frozen=True)
class Teacher:
    """The teacher's predictions at all requests, those of `local_crops` after the global ones, and what turns them into
    targets.
    """

    predictions: Predictions
    alignment: Alignment
    centres: Float[Tensor, "levels k"]
    temperature: float
    local_crops: int

    @property
    def samples(self) -> int:
        """Samples per global view; requests beyond them are those of local crops."""
        return self.alignment.source.shape[2]

    def targets(
        self, level: int, vectors: Float[Tensor, "t r w"], weights: Float[Tensor, "t r"] | None = None
    ) -> Targets:
        """Targets with the centre of a level."""
        weights = torch.ones_like(vectors[..., 0]) if weights is None else weights
        return Targets(vectors, weights, self.predictions.prototypes, self.centres[level], self.temperature)

    def requested(self, local: int | None) -> tuple[Float[Tensor, "2 b m w"], Float[Tensor, "2 b m"]]:
        """Patches that the other global view, or a local crop, asked each view for; and which are valid."""
        start, stop = 0, self.samples
        if local is not None:
            size = (self.predictions.patches.shape[2] - self.samples) // self.local_crops
            start = self.samples + local * size
            stop = start + size
        valid = self.alignment.valid[:, :, start:stop].to(self.predictions.patches.dtype)
        return self.predictions.patches[:, :, start:stop], valid

    def blended(self, local: int | None, alpha: float) -> Float[Tensor, "2 b w"]:
        """alpha * mean of valid patches + (1 - alpha) * cls, per view: W times it is the blended logit."""
        vectors, valid = self.requested(local)
        return alpha * masked_mean(vectors, valid) + (1 - alpha) * self.predictions.classes[0]

    def multimodal(self, local: int | None, options: LossOptions) -> tuple[Tensor, Tensor]:
        """Target vectors of cls+ `[t 2 b w]` and their weights `[t 2 b]`, per view."""
        if options.target_mix == "logits":
            blend = self.blended(local, options.alpha).unsqueeze(0)
            return blend, torch.ones_like(blend[..., 0])
        vectors, valid = self.requested(local)
        count = valid.sum(-1, keepdim=True)
        share = options.alpha * (count > 0).to(valid.dtype)
        weights = torch.cat([share * valid / count.clamp_min(1), 1 - share], dim=-1)  # [2 b m+1]
        together = torch.cat([vectors, self.predictions.classes[0].unsqueeze(2)], dim=2)
        return together.movedim(2, 0), weights.movedim(2, 0)


def loss_parts(
    student: Predictions, teacher: Teacher, counts: BatchCounts, options: LossOptions
) -> dict[str, Float[Tensor, ""]]:
    """This process's share of each part; summed over processes, the mean over pairs, images and valid samples.

    Names are the reference's: global (g), local (l) pairs of the image level (cl) and of cls+ (mcl), patches (g_pch).
    """
    locals_ = student.local_classes.shape[1]
    images = counts.images

    def entropy(vectors: Tensor, targets: Targets) -> Tensor:
        return cross_entropy(vectors, student.prototypes, targets, options.student_temperature)

    own = teacher.predictions.classes[0]  # [2 b w]
    parts = {"g_cl": entropy(_rows(student.classes[0]), teacher.targets(0, _rows(own.flip(0)))) / (2 * images)}
    if locals_:
        parts["l_cl"] = entropy(student.local_classes[0], teacher.targets(0, own)) / (2 * locals_ * images)
    if len(student.classes) > 1:
        vectors, weights = teacher.multimodal(None, options)
        targets = teacher.targets(1, vectors.flip(1).flatten(1, 2), weights.flip(1).flatten(1, 2))
        parts["g_mcl"] = entropy(_rows(student.classes[1]), targets) / (2 * images)
    if len(student.classes) > 1 and locals_:
        found = [teacher.multimodal(local, options) for local in range(locals_)]
        vectors = torch.stack([one for one, _ in found], dim=2).flatten(0, 1).flatten(1, 2)  # [t*2 L*b w]
        weights = torch.stack([one for _, one in found], dim=2).flatten(0, 1).flatten(1, 2)
        parts["l_mcl"] = entropy(_rows(student.local_classes[1]), teacher.targets(1, vectors, weights)) / (
            2 * locals_ * images
        )
    if student.patches.shape[2]:
        vectors, valid = teacher.requested(None)
        targets = teacher.targets(-1, vectors.flip(0).flatten(0, 2)[None], valid.flip(0).flatten()[None])
        parts["g_pch"] = entropy(student.patches.flatten(0, 2)[None], targets) / max(counts.patches, 1.0)
    return parts


def total_loss(parts: dict[str, Float[Tensor, ""]], local_crops: int) -> Float[Tensor, ""]:
    """The mean over active levels; each level the mean over its 2 + 2L pairs (spec udi 4)."""
    share = 1 / (1 + local_crops)  # of global pairs
    levels = []
    for kind in ("cl", "mcl"):
        if f"g_{kind}" in parts:
            level = share * parts[f"g_{kind}"]
            levels.append(level + (1 - share) * parts[f"l_{kind}"] if local_crops else level)
    if "g_pch" in parts:
        levels.append(parts["g_pch"])
    return torch.stack(levels).mean()


def _rows(vectors: Float[Tensor, "v b w"]) -> Float[Tensor, "1 r w"]:
    return vectors.flatten(0, 1).unsqueeze(0)
