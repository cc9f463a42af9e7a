"""A tiny vision transformer, its extractor, and a support bank of random patches."""

from pathlib import Path

import numpy as np
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import normalize

from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import draw_projection
from fungi.gradients.targets import find_target
from fungi.search.stored import BankSearch
from fungi.segmentation.dense import DenseExtractor, DenseLoss, Support
from fungi.store.banks import Bank, BankManifest
from fungi.views.image import HALF
from fungi.views.scenes import SceneView

CPU = torch.device("cpu")
SIZE, PATCH, WIDTH = 16, 4, 12  # sides of images and patches in pixels, and embedding size


def tiny_vit(*, seed: int = 0, registers: int = 0, kind: type = VisionTransformer, **options) -> VisionTransformer:
    """Return a vision transformer with random parameters and 4 x 4 patches. registers: number of register tokens."""
    torch.manual_seed(seed)
    options = {"num_classes": 0, **options} | ({"num_reg_tokens" if kind is Eva else "reg_tokens": registers})
    model = kind(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=3, **options)
    model.position_scaling = "hub"  # as in the published code of DINO
    for parameter in model.parameters():  # also biases, which are zero in a new model
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def extractor(
    model: VisionTransformer,
    *,
    kind: str = "khatri-rao",
    rows: int = 12,
    loss: DenseLoss | None = None,
    size: int = SIZE,
) -> DenseExtractor:
    """Return an extractor for the last block of a model. kind, rows: kind and number of rows of the projection."""
    target = find_target(model, "blocks.1.attn.proj")
    matrix = draw_projection(rows, target.gradient_dim, kind=kind)
    views = SceneView(size=size, statistics=HALF)
    return DenseExtractor(model, target, make_projector(matrix, CPU, torch.float32), views, device=CPU, loss=loss)


def filled_bank(folder: Path, features: np.ndarray, labels: np.ndarray | None = None, **options) -> Bank:
    """Return a bank with a single block of these rows. labels: zeros by default. options: fields of its manifest."""
    labels = np.zeros((len(features), 2), dtype=np.int64) if labels is None else labels
    options = {"dtype": "float32", "provenance": {}, **options}
    bank = Bank.create(folder, BankManifest(features.shape[1], labels.shape[1], ends=(len(features),), **options))
    bank.write(0, features, labels)
    return bank


def random_support(folder: Path, rows: int = 50, *, seed: int = 3, width: int = WIDTH) -> Support:
    """Return a support bank of random unit vectors."""
    features = normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)
    bank = filled_bank(folder, features.numpy())
    return Support(bank, BankSearch(bank, CPU))


def images(count: int, *, seed: int = 1) -> torch.Tensor:
    """Return 8-bit images of noise, `[count 3 s s]`."""
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed)).byte()
