"""iBOT: DINO between crops, and between masked patches and what the teacher sees of them (spec vision 4.5)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded, TokenEncoder
from fungi.objectives.base import Objective, Support, random_linear, register
from fungi.objectives.dino import self_distillation

GLOBAL_CROPS = 2


def masked_cross_entropy(
    student: Float[Tensor, "b g t l"],
    teacher: Float[Tensor, "b g t l"],
    mask: Bool[Tensor, "b g t"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, " b"]:
    """Cross-entropy at masked positions: mean over those of a crop, then over crops; a crop without any counts 0."""
    target = torch.softmax(teacher.detach() / teacher_temperature, dim=-1)
    each = -(target * torch.log_softmax(student / student_temperature, dim=-1)).sum(dim=-1)  # [b g t]
    of_crop = (each * mask).sum(dim=-1) / mask.sum(dim=-1).clamp_min(1)
    return of_crop.mean(dim=-1)


@register
@dataclass(frozen=True, kw_only=True)
class IBOT(Objective):
    """Masked global crops and local crops for the student, whole global crops for the teacher.

    It wants patch tokens and their masks beside the class tokens.
    class_loss: the loss between class tokens too, and not between patches alone.
    """

    name = "ibot"
    views = "masked-crops"
    encoder: ClassVar = TokenEncoder

    latent_dim: int = 2048
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    class_loss: bool = True

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Independent heads for student and teacher; class and patch tokens share that of their side."""
        sides = ("student", "teacher")
        return nn.ModuleDict(
            {side: random_linear(embedding_dim, self.latent_dim, seed, self.name, side) for side in sides}
        )

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Loss of the class tokens plus loss of the masked patches."""
        assert encoded.patches is not None, "the engine of this loss encodes all tokens"
        assert encoded.mask is not None, "its views are masked"
        patches = masked_cross_entropy(
            self.latents(encoded.patches[:, :GLOBAL_CROPS], heads["student"]),
            self.latents(encoded.patches[:, -GLOBAL_CROPS:].detach(), heads["teacher"]),
            encoded.mask[:, :GLOBAL_CROPS],
            self.student_temperature,
            self.teacher_temperature,
        )
        return patches + self._class_loss(encoded.pooled, heads) if self.class_loss else patches

    def _class_loss(self, pooled: Float[Tensor, "b v d"], heads: nn.ModuleDict) -> Float[Tensor, " b"]:
        """Return mean over the pairs of a teacher's crop and another crop of the student's."""
        student, teacher = pooled[:, :-GLOBAL_CROPS], pooled[:, -GLOBAL_CROPS:].detach()
        summed = self_distillation(
            self.latents(student, heads["student"]),
            self.latents(teacher, heads["teacher"]),
            self.student_temperature,
            self.teacher_temperature,
            skip_same_view=True,
        )
        return summed / (GLOBAL_CROPS * (student.shape[1] - 1))
