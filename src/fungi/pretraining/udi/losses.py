"""Losses of UDI: image level, multimodal level, patch level (spec udi 4).

A loss is a sum over the images of this process, divided by counts over the *whole* batch. The total therefore does not
depend on the split of the batch. Teacher logits are linear in unit vectors, so the mean of the logits is the logit of
the mean vector. The logits of patches of local crops are therefore never computed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.pretraining.udi.choices import TargetMix
from fungi.pretraining.udi.cross_entropy import Targets, Term, cross_entropies
from fungi.pretraining.udi.network import Alignment, Predictions
from fungi.pretraining.udi.sampling import masked_mean


@dataclass(frozen=True)
class LossOptions:
    """Options of the losses.

    alpha: weight of patches in the target of cls+. target_mix: whether this target averages logits or probabilities.
    """

    alpha: float = 0.5
    student_temperature: float = 0.1
    target_mix: TargetMix = "logits"


@dataclass(frozen=True)
class BatchCounts:
    """Number of images in the whole batch, and number of valid samples of its global views (on the device)."""

    images: int
    patches: Float[Tensor, ""]


@dataclass(frozen=True)
class Teacher:
    """Predictions of the teacher, with the centres and the temperature that turn them into targets.

    The requests of the global views come first, then the requests of the `local_crops`.
    """

    predictions: Predictions
    alignment: Alignment
    centres: Float[Tensor, "levels k"]
    temperature: float
    local_crops: int

    @property
    def samples(self) -> int:
        """Number of samples per global view. All further requests come from local crops."""
        return self.alignment.source.shape[2]

    def targets(
        self, level: int, vectors: Float[Tensor, "t r w"], weights: Float[Tensor, "t r"] | None = None
    ) -> Targets:
        """Return targets with the centre of a level."""
        return Targets(vectors, weights, self.predictions.prototypes, self.centres[level], self.temperature)

    def requested(self, local: int | None) -> tuple[Float[Tensor, "2 b m w"], Float[Tensor, "2 b m"]]:
        """Return the patches of each view that the other global view or a local crop samples, and their validity.

        local: the index of the local crop, None for the other global view.
        """
        start, stop = 0, self.samples
        if local is not None:
            size = (self.predictions.patches.shape[2] - self.samples) // self.local_crops
            start = self.samples + local * size
            stop = start + size
        valid = self.alignment.valid[:, :, start:stop].to(self.predictions.patches.dtype)
        return self.predictions.patches[:, :, start:stop], valid

    def blended(self, local: int | None, alpha: float) -> Float[Tensor, "2 b w"]:
        """Return `alpha * mean of valid patches + (1 - alpha) * cls` per view. W times this is the blended logit."""
        vectors, valid = self.requested(local)
        return alpha * masked_mean(vectors, valid) + (1 - alpha) * self.predictions.classes[0]

    def multimodal(
        self, local: int | None, options: LossOptions
    ) -> tuple[Float[Tensor, "t 2 b w"], Float[Tensor, "t 2 b"] | None]:
        """Return target vectors of cls+ and their weights, per view. The weights are None if all are 1."""
        if options.target_mix == "logits":
            return self.blended(local, options.alpha).unsqueeze(0), None
        vectors, valid = self.requested(local)
        count = valid.sum(-1, keepdim=True)
        share = options.alpha * (count > 0).to(valid.dtype)
        weights = torch.cat([share * valid / count.clamp_min(1), 1 - share], dim=-1)  # [2 b m+1]
        together = torch.cat([vectors, self.predictions.classes[0].unsqueeze(2)], dim=2)
        return together.movedim(2, 0), weights.movedim(2, 0)


def loss_parts(
    student: Predictions, teacher: Teacher, counts: BatchCounts, options: LossOptions
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return this process's share of the loss and of each of its parts.

    Summed over processes, the parts are means over pairs, images and valid samples. They are not differentiable. Their
    names are those of the reference: global (g) and local (l) pairs at the image level (cl) and for cls+ (mcl), and
    patches (g_pch).
    """
    parts = {**_image_level(student, teacher), **_multimodal_level(student, teacher, options)}
    if student.patches.shape[2]:
        counted = teacher.alignment.counted
        vectors, _ = teacher.requested(None)  # [2 b m w]
        targets = teacher.targets(-1, vectors.flip(0).flatten(0, 2).index_select(0, counted)[None])
        parts["g_pch"] = (student.patches.flatten(0, 2).index_select(0, counted)[None], targets)
    crops = student.local_classes.shape[1]
    pairs = {"g": 2.0 * counts.images, "l": 2.0 * crops * counts.images}
    divisors = {name: pairs[name[0]] if name != "g_pch" else counts.patches.clamp_min(1) for name in parts}
    shares = part_shares(list(parts), crops)
    terms = [Term(*part, shares[name] / divisors[name]) for name, part in parts.items()]
    total, sums = cross_entropies(terms, student.prototypes, options.student_temperature)
    return total, {name: total / divisors[name] for name, total in zip(parts, sums, strict=True)}


def part_shares(names: list[str], local_crops: int) -> dict[str, float]:
    """Return the weight of each part in the loss: the mean over levels of the mean over 2 + 2L pairs (spec udi 4)."""
    levels = len({name.partition("_")[2] for name in names})
    shares = {"g": 1 / (1 + local_crops), "l": local_crops / (1 + local_crops)}
    return {name: (1.0 if name == "g_pch" else shares[name[0]]) / levels for name in names}


_Part = tuple[Float[Tensor, "l r w"], Targets]
"""Vectors of the student and their targets."""


def _image_level(student: Predictions, teacher: Teacher) -> dict[str, _Part]:
    own = teacher.predictions.classes[0]  # [2 b w]
    parts = {"g_cl": (_rows(student.classes[0]), teacher.targets(0, _rows(own.flip(0))))}
    if student.local_classes.shape[1]:
        parts["l_cl"] = (student.local_classes[0], teacher.targets(0, own))
    return parts


def _multimodal_level(student: Predictions, teacher: Teacher, options: LossOptions) -> dict[str, _Part]:
    if len(student.classes) < 2:
        return {}

    def targets(vectors: Tensor, weights: Tensor | None) -> Targets:  # [t v b w], [t v b]
        return teacher.targets(1, vectors.flatten(1, 2), None if weights is None else weights.flatten(1, 2))

    vectors, weights = teacher.multimodal(None, options)
    other = targets(vectors.flip(1), None if weights is None else weights.flip(1))
    parts = {"g_mcl": (_rows(student.classes[1]), other)}
    local_targets = [teacher.multimodal(local, options) for local in range(student.local_classes.shape[1])]
    if local_targets:  # both views of each crop: [t*2 L b ...]
        vectors = torch.stack([vectors for vectors, _ in local_targets], dim=2).flatten(0, 1)
        local_weights = [weights for _, weights in local_targets if weights is not None]
        weights = torch.stack(local_weights, dim=2).flatten(0, 1) if local_weights else None
        parts["l_mcl"] = (_rows(student.local_classes[1]), targets(vectors, weights))
    return parts


def _rows(vectors: Float[Tensor, "v b w"]) -> Float[Tensor, "1 r w"]:
    return vectors.flatten(0, 1).unsqueeze(0)
