"""The losses of UDI on three levels: image (cls), multimodal (cls+) and patch (spec udi 4).

A loss is a sum over the images of this process, divided by counts over the batch of *all* processes. The total
therefore does not depend on the split of the batch. The teacher's logits are linear in unit vectors, so the mean of the
logits is the logit of the mean vector. The logits of patches of local crops are therefore not computed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.pretraining.udi.choices import TargetMix
from fungi.pretraining.udi.cross_entropy import Targets, Term, cross_entropies
from fungi.pretraining.udi.network import Alignment, Predictions
from fungi.pretraining.udi.sampling import masked_mean


@dataclass(frozen=True)
class LossOptions:
    """The options of the losses.

    alpha: weight of patches in the target of cls+. student_temperature: temperature of the student's predictions.
    target_mix: whether the target of cls+ averages logits or probabilities.
    """

    alpha: float = 0.5
    student_temperature: float = 0.1
    target_mix: TargetMix = "logits"


@dataclass(frozen=True)
class BatchCounts:
    """The numbers of images and of valid samples of global views in the batch of all processes.

    patches: the number of valid samples, on the device.
    """

    images: int
    patches: Float[Tensor, ""]


@dataclass(frozen=True)
class Teacher:
    """The predictions of the teacher, with the centres and the temperature that turn them into targets.

    local_crops: number of local crops. `Alignment` explains the requests.
    """

    predictions: Predictions
    alignment: Alignment
    centres: Float[Tensor, "levels k"]
    temperature: float
    local_crops: int

    @property
    def samples(self) -> int:
        """The number of samples per global view. All further requests come from local crops."""
        return self.alignment.source.shape[2]

    def targets(
        self, level: int, vectors: Float[Tensor, "t r w"], weights: Float[Tensor, "t r"] | None = None
    ) -> Targets:
        """Return targets with the centre of a level."""
        return Targets(vectors, weights, self.predictions.prototypes, self.centres[level], self.temperature)

    def requested_patches(self, local: int | None) -> tuple[Float[Tensor, "2 b m w"], Float[Tensor, "2 b m"]]:
        """Return the patches of each global view that another view samples, and their mask: 1 for valid, 0 for invalid.

        local: index of the local crop that samples; None for the other global view.
        """
        start, stop = 0, self.samples
        if local is not None:
            size = (self.predictions.patches.shape[2] - self.samples) // self.local_crops
            start = self.samples + local * size
            stop = start + size
        valid = self.alignment.valid[:, :, start:stop].to(self.predictions.patches.dtype)
        return self.predictions.patches[:, :, start:stop], valid

    def blended_vectors(self, local: int | None, alpha: float) -> Float[Tensor, "2 b w"]:
        """Return `alpha * mean of valid patches + (1 - alpha) * cls` for each global view."""
        vectors, valid = self.requested_patches(local)
        return alpha * masked_mean(vectors, valid) + (1 - alpha) * self.predictions.classes[0]

    def multimodal_targets(
        self, local: int | None, options: LossOptions
    ) -> tuple[Float[Tensor, "t 2 b w"], Float[Tensor, "t 2 b"] | None]:
        """Return target vectors of cls+ and their weights for each global view. The weights are None if all are 1."""
        if options.target_mix == "logits":
            return self.blended_vectors(local, options.alpha).unsqueeze(0), None
        vectors, valid = self.requested_patches(local)
        count = valid.sum(-1, keepdim=True)
        patch_share = options.alpha * (count > 0).to(valid.dtype)
        weights = torch.cat([patch_share * valid / count.clamp_min(1), 1 - patch_share], dim=-1)  # [2 b m+1]
        all_vectors = torch.cat([vectors, self.predictions.classes[0].unsqueeze(2)], dim=2)
        return all_vectors.movedim(2, 0), weights.movedim(2, 0)


def loss_parts(
    student: Predictions, teacher: Teacher, counts: BatchCounts, options: LossOptions
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return the loss of this process and its parts by name. Only the loss is differentiable.

    The sum of a part over processes is a mean over pairs, images and valid samples. The names of the parts are those of
    the published code: global (g) and local (l) pairs on the image level (cl) and the multimodal level (mcl), and
    patches (g_pch).
    """
    parts = {**_image_level(student, teacher), **_multimodal_level(student, teacher, options)}
    crops = student.local_classes.shape[1]
    pairs = {"g": 2.0 * counts.images, "l": 2.0 * crops * counts.images}
    divisors: dict[str, Any] = {name: pairs[name[0]] for name in parts}
    if student.patches.shape[2]:
        shared = teacher.alignment.shared_samples  # of the 2*b*m samples
        requested, _ = teacher.requested_patches(None)  # [2 b m w]
        target_vectors = requested.flip(0).flatten(0, 2).index_select(0, shared)  # of the other view, [rows w]
        vectors = student.patches.flatten(0, 2).index_select(0, shared)  # [rows w]
        parts["g_pch"] = (vectors[None], teacher.targets(-1, target_vectors[None]))
        divisors["g_pch"] = counts.patches.clamp_min(1)
    shares = part_shares(list(parts), crops)
    terms = [Term(*part, shares[name] / divisors[name]) for name, part in parts.items()]
    loss, sums = cross_entropies(terms, student.prototypes, options.student_temperature)
    return loss, {name: part_sum / divisors[name] for name, part_sum in zip(parts, sums, strict=True)}


def part_shares(names: list[str], local_crops: int) -> dict[str, float]:
    """Return the weight of each part in the loss. The loss is the mean over levels of means over pairs (spec udi 4).

    There are 2 pairs of global views, and 2 pairs for each local crop.
    """
    levels = len({name.partition("_")[2] for name in names})  # cl, mcl and pch
    shares = {"g": 1 / (1 + local_crops), "l": local_crops / (1 + local_crops)}
    return {name: (1.0 if name == "g_pch" else shares[name[0]]) / levels for name in names}


_Part = tuple[Float[Tensor, "l r w"], Targets]
"""Vectors of the student and their targets."""


def _image_level(student: Predictions, teacher: Teacher) -> dict[str, _Part]:
    """Return the parts for cls: each view has the global views of the teacher as targets, except itself."""
    vectors = teacher.predictions.classes[0]  # [2 b w]
    parts = {"g_cl": (_rows(student.classes[0]), teacher.targets(0, _rows(vectors.flip(0))))}
    if student.local_classes.shape[1]:
        parts["l_cl"] = (student.local_classes[0], teacher.targets(0, vectors))
    return parts


def _multimodal_level(student: Predictions, teacher: Teacher, options: LossOptions) -> dict[str, _Part]:
    """Return the parts for cls+; empty if the networks have only one class token."""
    if len(student.classes) < 2:
        return {}

    def targets(vectors: Tensor, weights: Tensor | None) -> Targets:  # [t v b w], [t v b]
        return teacher.targets(1, vectors.flatten(1, 2), None if weights is None else weights.flatten(1, 2))

    vectors, weights = teacher.multimodal_targets(None, options)
    global_targets = targets(vectors.flip(1), None if weights is None else weights.flip(1))
    parts = {"g_mcl": (_rows(student.classes[1]), global_targets)}
    local_targets = [teacher.multimodal_targets(local, options) for local in range(student.local_classes.shape[1])]
    if local_targets:  # both global views are targets of each local crop: [t*2 L b ...]
        vectors = torch.stack([vectors for vectors, _ in local_targets], dim=2).flatten(0, 1)
        local_weights = [weights for _, weights in local_targets if weights is not None]
        weights = torch.stack(local_weights, dim=2).flatten(0, 1) if local_weights else None
        parts["l_mcl"] = (_rows(student.local_classes[1]), targets(vectors, weights))
    return parts


def _rows(vectors: Float[Tensor, "v b w"]) -> Float[Tensor, "1 r w"]:
    return vectors.flatten(0, 1).unsqueeze(0)
