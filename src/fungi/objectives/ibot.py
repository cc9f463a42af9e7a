"""iBOT: the DINO loss of crops, and the same loss of the masked patches of student and teacher (spec vision 4.5)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded, TokenEncoder
from fungi.objectives.base import Objective, Support, random_linear, register
from fungi.objectives.dino import self_distillation
from fungi.views.masked_crops import GLOBAL_CROPS


def masked_cross_entropy(
    student: Float[Tensor, "b g t l"],
    teacher: Float[Tensor, "b g t l"],
    mask: Bool[Tensor, "b g t"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, " b"]:
    """Return the cross-entropy at masked patches, averaged per global crop (axis g) and then over global crops.

    mask: true for masked patches. A crop without masked patches counts as 0.
    """
    target = torch.softmax(teacher.detach() / teacher_temperature, dim=-1)
    cross_entropies = -(target * torch.log_softmax(student / student_temperature, dim=-1)).sum(dim=-1)  # [b g t]
    crop_means = (cross_entropies * mask).sum(dim=-1) / mask.sum(dim=-1).clamp_min(1)
    return crop_means.mean(dim=-1)


@register
@dataclass(frozen=True, kw_only=True)
class IBOT(Objective):
    """The iBOT objective.

    The student encodes the first views: masked global crops, then local crops. The teacher encodes the last two views:
    the same global crops without a mask.

    class_loss: add the loss of the class tokens to the loss of the patches.
    """

    name = "ibot"
    views = "masked-crops"
    encoder: ClassVar = TokenEncoder

    latent_dim: int = 2048
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    class_loss: bool = True

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return independent heads for student and teacher. Class and patch tokens share a head."""
        names = ("student", "teacher")
        return nn.ModuleDict(
            {name: random_linear(embedding_dim, self.latent_dim, seed, self.name, name) for name in names}
        )

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Return the loss of the masked patches; with `class_loss`, add the loss of the class tokens."""
        assert encoded.patches is not None, "the encoder of this loss returns all tokens"
        assert encoded.mask is not None, "the views of this loss are masked"
        patch_loss = masked_cross_entropy(
            self.latents(encoded.patches[:, :GLOBAL_CROPS], heads["student"]),
            self.latents(encoded.patches[:, -GLOBAL_CROPS:].detach(), heads["teacher"]),
            encoded.mask[:, :GLOBAL_CROPS],
            self.student_temperature,
            self.teacher_temperature,
        )
        return patch_loss + self._class_loss(encoded.pooled, heads) if self.class_loss else patch_loss

    def _class_loss(self, pooled: Float[Tensor, "b v d"], heads: nn.ModuleDict) -> Float[Tensor, " b"]:
        """Return the mean cross-entropy over all pairs of a teacher crop and a different student crop."""
        student, teacher = pooled[:, :-GLOBAL_CROPS], pooled[:, -GLOBAL_CROPS:].detach()
        total = self_distillation(
            self.latents(student, heads["student"]),
            self.latents(teacher, heads["teacher"]),
            self.student_temperature,
            self.teacher_temperature,
            skip_same_view=True,
        )
        pairs = GLOBAL_CROPS * (student.shape[1] - 1)
        return total / pairs
