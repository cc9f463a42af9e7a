"""DINO: cross-entropy between teacher and student distributions over crops, one frozen backbone (spec vision 4.2)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.objectives.base import Objective, Support, random_linear, register


def self_distillation(
    student: Float[Tensor, "b v l"],
    teacher: Float[Tensor, "b a l"],
    student_temperature: float,
    teacher_temperature: float,
    skip_same_view: bool = False,
) -> Float[Tensor, " b"]:
    """Sum of the cross-entropies of all teacher x student pairs; teacher view a is the same crop as student view a.

    No gradient flows to the teacher. Pairs of the same crop count unless `skip_same_view` (deviation V5).
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
    """Twelve crops; the first two are the teacher's. Student and teacher share the backbone and its forward."""

    name = "dino"
    views = "crops"
    follows: ClassVar[dict[str, str]] = {"teacher_views": "global_crops"}

    latent_dim: int = 2048
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    teacher_views: int = 2
    shared_head: bool = False
    skip_same_view: bool = False

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Independent heads for student and teacher, E -> 2048; one for both with `shared_head`."""
        student = random_linear(embedding_dim, self.latent_dim, seed, self.name, "student")
        teacher = (
            student if self.shared_head else random_linear(embedding_dim, self.latent_dim, seed, self.name, "teacher")
        )
        return nn.ModuleDict({"student": student, "teacher": teacher})

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Take all crops as student, the detached embeddings of the global ones as teacher."""
        student = self.latents(encoded.pooled, heads["student"])
        return self.distillation(student, self.teacher_latents(encoded.pooled, heads["teacher"]))

    def teacher_latents(self, embeddings: Float[Tensor, "b v d"], head: nn.Module) -> Float[Tensor, "b a l"]:
        """Latents of the global crops, without gradient."""
        return self.latents(embeddings[:, : self.teacher_views].detach(), head)

    def distillation(self, student: Float[Tensor, "b v l"], teacher: Float[Tensor, "b a l"]) -> Float[Tensor, " b"]:
        """Return the loss of latents."""
        return self_distillation(
            student, teacher, self.student_temperature, self.teacher_temperature, self.skip_same_view
        )
