"""iBOT: DINO between crops, and between masked patches and what the teacher sees of them (spec vision 4.5)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

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

    An embedding of a view is all its tokens side by side, each with a last entry that says whether it was masked
    (`fungi.gradients.tokens`). class_loss: the loss between class tokens too, and not between patches alone.
    """

    name = "ibot"
    views = "masked-crops"
    tokens: ClassVar[bool] = True

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

    def loss(self, embeddings: Float[Tensor, "b v d"], heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Loss of the class tokens plus loss of the masked patches."""
        head: Any = heads["student"]
        flagged = embeddings.unflatten(2, (-1, head.in_features + 1))  # [b v t d+1]
        tokens, mask = flagged[..., :-1], flagged[..., 1:, -1] > 0.5
        student, teacher = tokens[:, :-GLOBAL_CROPS], tokens[:, -GLOBAL_CROPS:].detach()
        patches = masked_cross_entropy(
            self.latents(student[:, :GLOBAL_CROPS, 1:], heads["student"]),
            self.latents(teacher[:, :, 1:], heads["teacher"]),
            mask[:, :GLOBAL_CROPS],
            self.student_temperature,
            self.teacher_temperature,
        )
        return patches + self._class_loss(student, teacher, heads) if self.class_loss else patches

    def _class_loss(
        self, student: Float[Tensor, "b v t d"], teacher: Float[Tensor, "b g t d"], heads: nn.ModuleDict
    ) -> Float[Tensor, " b"]:
        """Mean over the pairs of a teacher's crop and another crop of the student's."""
        summed = self_distillation(
            self.latents(student[:, :, 0], heads["student"]),
            self.latents(teacher[:, :, 0], heads["teacher"]),
            self.student_temperature,
            self.teacher_temperature,
            skip_same_view=True,
        )
        return summed / (GLOBAL_CROPS * (student.shape[1] - 1))
