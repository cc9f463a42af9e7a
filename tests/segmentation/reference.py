"""A simple implementation of the evaluation in spec dense: one image and one query at a time, in float64.

The seeds and the order of random draws are part of the method, so the reference uses the same random streams.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize
from torchvision.transforms import RandomResizedCrop, functional

from fungi.backbones.loading import load_backbone
from fungi.objectives.base import random_linear
from fungi.runtime.seeds import derive_seed, seeded
from fungi.segmentation.dense import set_input_size

SIZE, PATCH, CLASSES, SEED = 40, 4, 3, 42
SIDE = SIZE // PATCH  # patches per side


@dataclass
class View:
    """An image of `SIZE` in 0..1 `[3 s s]`, its mask, and the seed of its random draws."""

    image: torch.Tensor
    mask: np.ndarray
    draw_seed: int


def resized_mask(mask: np.ndarray) -> np.ndarray:
    """Return a mask of `SIZE` x `SIZE` pixels. Each pixel has the class of the nearest pixel above and to its left."""
    rows, columns = (np.arange(SIZE) * extent // SIZE for extent in mask.shape)
    return mask[np.ix_(rows, columns)]


def unaugmented_view(image: Image.Image, mask: np.ndarray, name: str, epoch: int = 0) -> View:
    """Return the resized image. Its pixels and the epoch determine the seed of its draws. The name is not used."""
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) / 255
    content = hashlib.blake2b(f"{image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()
    draw_seed = derive_seed(SEED, "dense", content, epoch)
    return View(torch.from_numpy(pixels).permute(2, 0, 1), resized_mask(mask), draw_seed)


def augmented_view(image: Image.Image, mask: np.ndarray, name: str, epoch: int) -> View:
    """Return a view after four jitters, each with probability 0.5, and one crop of image and mask (spec 2.4)."""
    changed = image
    with seeded(SEED, "views", f"scene of epoch {epoch}", name):
        for jitter in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
            if torch.rand(()) < 0.5:
                changed = jitter(changed, float(torch.empty(()).uniform_(0.9, 1.1)))
        if torch.rand(()) < 0.5:
            changed = functional.adjust_hue(changed, float(torch.empty(()).uniform_(-0.1, 0.1)))
        top, left, height, width = RandomResizedCrop.get_params(changed, [0.5, 2.0], [3 / 4, 4 / 3])
    crop = functional.to_tensor(changed)[:, top : top + height, left : left + width]
    pixels = functional.resize(crop, [SIZE, SIZE], antialias=True).double()
    crop_of_mask = mask[top : top + height, left : left + width]
    return View(pixels, resized_mask(crop_of_mask), unaugmented_view(image, mask, name, epoch).draw_seed)


def views_of(root: Path, split: str, epochs: int) -> list[View]:
    """Return augmented views of all images, epoch by epoch. With 0 epochs, return the images without augmentation."""
    views = []
    for epoch in range(max(epochs, 1)):
        for path in sorted((root / split / "images").iterdir()):
            image, mask = Image.open(path).convert("RGB"), np.asarray(Image.open(root / split / "masks" / path.name))
            view_of = augmented_view if epochs else unaugmented_view
            views.append(view_of(image, mask, f"{split}/images/{path.name}", epoch))
    return views


def labels_of(mask: np.ndarray) -> np.ndarray:
    """Return the share of each class in each patch, `[t c]`. Void is not a class."""
    cells = [
        mask[row : row + PATCH, column : column + PATCH]
        for row in range(0, SIZE, PATCH)
        for column in range(0, SIZE, PATCH)
    ]
    return np.array([[(cell == label).mean() for label in range(CLASSES)] for cell in cells])


def kept_patches(view: View, keep: int) -> list[int]:
    """Return the `keep` patches with the lowest scores (spec 3.2).

    A score is a uniform draw times the sum of n_c over the classes of the patch.
    """
    present = labels_of(view.mask) > 0
    patches_with = [sum(patch[label] for patch in present) for label in range(CLASSES)]
    uniform = torch.rand(len(present), generator=torch.Generator().manual_seed(view.draw_seed ^ 1), dtype=torch.float64)
    scores = [
        float(draw) * sum(patches_with[label] for label in range(CLASSES) if patch[label]) if patch.any() else np.inf
        for patch, draw in zip(present, uniform, strict=True)
    ]
    return sorted(sorted(range(len(scores)), key=lambda patch: scores[patch])[:keep])


class Reference:
    """The evaluation with digits-vit in float64. projection: `[p o*(i+1)]` for gradients, None for embeddings alone."""

    def __init__(self, projection: torch.Tensor | None = None) -> None:
        self.model, self.projection = load_backbone("digits-vit").model, projection
        set_input_size(self.model, SIZE)
        self.model.double()
        self.layer = self.model.blocks[-1].attn.proj
        self.head = random_linear(96, 96, SEED, "simclr").double()

    def tokens(self, view: View) -> torch.Tensor:
        return self.model.forward_features((view.image[None] - 0.5) / 0.5)[0]

    def embeddings(self, view: View) -> torch.Tensor:
        with torch.no_grad():
            return normalize(self.tokens(view)[1:], dim=1)

    def features(self, view: View, support: torch.Tensor) -> torch.Tensor:
        """Return `cat[token, projected gradient]` of each patch (spec 4)."""
        activations: list[torch.Tensor] = []

        def record(module, inputs, output) -> None:
            output.requires_grad_().retain_grad()
            activations.extend([inputs[0][0], output])

        handle = self.layer.register_forward_hook(record)
        tokens = self.tokens(view)
        handle.remove()
        self.loss(tokens, support, view.draw_seed).backward()
        delta, inputs = activations[1].grad[0], torch.cat([activations[0], torch.ones(len(tokens), 1)], dim=1)
        terms = [torch.outer(*pair).flatten() for pair in zip(delta, inputs, strict=True)]
        gradients = torch.stack([self.projection @ term for term in terms[1:]])
        parts = [normalize(part, dim=1) for part in (tokens.detach()[1:], gradients)]
        return normalize(torch.cat(parts, dim=1), dim=1)

    def loss(self, tokens: torch.Tensor, support: torch.Tensor, draw_seed: int) -> torch.Tensor:
        """Return the contrastive loss of the tokens of an image (spec 4.2). support: embeddings of the bank `[n d]`."""
        nearest_rows = (tokens.detach() @ support.T).argsort(dim=1, descending=True)[:, :2]
        is_kept = torch.rand(len(tokens), 2, generator=torch.Generator().manual_seed(draw_seed)) < 0.5
        latents = normalize(self.head(tokens), dim=1)
        negatives = normalize(self.head(support[nearest_rows[is_kept]]).detach(), dim=1)
        losses = []
        for index, latent in enumerate(latents):
            scores_of_tokens = torch.cat([latents[:index], latents[index + 1 :]]) @ latent / 0.07
            scores_of_negatives = negatives @ latent / 0.07
            scores = torch.cat([scores_of_tokens, scores_of_negatives])
            losses.append(torch.logsumexp(scores, 0) - scores_of_tokens.mean())
        return torch.stack(losses).mean()

    def iou(self, root: Path, neighbours: int, temperature: float, epochs: int = 0, keep: int = SIDE**2) -> list[float]:
        """Return the IoU of each class on the test images."""
        train, test = views_of(root, "train", epochs), views_of(root, "test", 0)
        kept = [kept_patches(view, keep) for view in train]
        labels = np.concatenate([labels_of(view.mask)[patches] for view, patches in zip(train, kept, strict=True)])
        keys = support = self._bank(train, kept, self.embeddings)
        if self.projection is not None:
            keys = self._bank(train, kept, lambda view: self.features(view, support))
        table = np.zeros((CLASSES, CLASSES))  # pixels: true class, predicted class
        for view in test:
            queries = self.embeddings(view) if self.projection is None else self.features(view, support)
            votes = [vote(keys @ query, labels, neighbours, temperature) for query in queries]
            maps = torch.from_numpy(np.array(votes)).T.unflatten(1, (SIDE, SIDE))
            predictions = interpolate(maps[None], (SIZE, SIZE), mode="bilinear")[0].argmax(0)
            for truth, prediction in zip(view.mask.flatten(), predictions.flatten().tolist(), strict=True):
                if truth != 255:
                    table[truth, prediction] += 1
        return [table[c, c] / (table[c].sum() + table[:, c].sum() - table[c, c]) for c in range(CLASSES)]

    def _bank(self, views: list[View], kept: list[list[int]], features) -> torch.Tensor:
        """Return the features of the kept patches of all views, `[n f]`."""
        return torch.cat([features(view)[patches] for view, patches in zip(views, kept, strict=True)])


def vote(cosines: torch.Tensor, labels: np.ndarray, neighbours: int, temperature: float) -> np.ndarray:
    """Return the mean of the labels of the nearest rows, weighted by their similarity."""
    nearest_rows = np.argsort(-cosines.numpy())[:neighbours]
    similarities = cosines.numpy()[nearest_rows]
    weights = np.exp((similarities - similarities[0]) / temperature)
    return sum(weight * labels[row] for weight, row in zip(weights, nearest_rows, strict=True)) / weights.sum()
