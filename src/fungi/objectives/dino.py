"""DINO: cross-entropy of teacher and student outputs for crops, with one frozen backbone (spec vision 4.2)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.errors import FungiError
from fungi.objectives.base import Objective, Support, random_linear, register
from fungi.views.base import ViewGenerator


def self_distillation(
    student: Float[Tensor, "b v l"],
    teacher: Float[Tensor, "b a l"],
    student_temperature: float,
    teacher_temperature: float,
    skip_same_view: bool = False,
) -> Float[Tensor, " b"]:
    """Return the sum of the cross-entropies of all pairs of a teacher view (axis a) and a student view (axis v).

    The teacher views are the first of the student views. `skip_same_view` leaves out the pairs of a view with itself.
    By default, these pairs are included, as in the published code (spec vision 10, V5). The teacher gets no gradient.
    """
    target = torch.softmax(teacher.detach() / teacher_temperature, dim=-1)
    log_p = torch.log_softmax(student / student_temperature, dim=-1)
    pairs = -torch.einsum("bal,bvl->bav", target, log_p)
    if skip_same_view:
        pairs = pairs * (1 - torch.eye(pairs.shape[1], pairs.shape[2], device=pairs.device))
    return pairs.sum(dim=(1, 2))


@register
@dataclass(frozen=True, kw_only=True)
class DINO(Objective):
    """The DINO objective. The student encodes twelve crops, and the teacher encodes the first two of them.

    Student and teacher have the same backbone, so they share a forward pass.

    teacher_views: number of crops that the teacher encodes. If a user sets the number of global crops, this number is
        the same.
    shared_head: use one head for student and teacher.
    skip_same_view: see `self_distillation`.
    """

    name = "dino"
    views = "crops"
    follows: ClassVar[dict[str, str]] = {"teacher_views": "global_crops"}

    latent_dim: int = 2048
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    teacher_views: int = 2
    shared_head: bool = False
    skip_same_view: bool = False

    def check_views(self, views: ViewGenerator) -> None:
        """Raise FungiError if the number of teacher views is less than 1 or larger than the number of crops."""
        if not 1 <= self.teacher_views <= views.n_views:
            raise FungiError(
                f"teacher_views is {self.teacher_views}, but has to be from 1 to {views.n_views}, the number of crops."
            )

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return independent heads for student and teacher. With `shared_head`, both have the same head."""
        student = teacher = random_linear(embedding_dim, self.latent_dim, seed, self.name, "student")
        if not self.shared_head:
            teacher = random_linear(embedding_dim, self.latent_dim, seed, self.name, "teacher")
        return nn.ModuleDict({"student": student, "teacher": teacher})

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Return the loss per sample. The student views are all crops; the teacher views are the global crops."""
        student = self.latents(encoded.pooled, heads["student"])
        return self.distillation(student, self.teacher_latents(encoded.pooled, heads["teacher"]))

    def teacher_latents(self, embeddings: Float[Tensor, "b v d"], head: nn.Module) -> Float[Tensor, "b a l"]:
        """Return the latents of the global crops, without gradient."""
        return self.latents(embeddings[:, : self.teacher_views].detach(), head)

    def distillation(self, student: Float[Tensor, "b v l"], teacher: Float[Tensor, "b a l"]) -> Float[Tensor, " b"]:
        """Return the loss per sample from the latents of student and teacher."""
        return self_distillation(
            student, teacher, self.student_temperature, self.teacher_temperature, self.skip_same_view
        )
