"""Train the backbone that comes with the package: `python scripts/train_digits_vit.py [--output FILE] [--seed S]`.

Ordinary supervised training on the train rows of the digits 0 to 4 of `digits` (630 images). The training uses no other
rows, and the script reads no test rows. Afterwards it prints the leave-one-out 20-NN accuracy of embeddings of train
rows: of the digits 0 to 4, of the other digits, and of all. The script takes a few minutes on two CPU cores. The same
seed on the same machine with the same number of threads gives the same file. The hash at the end identifies the file.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from fungi.backbones.checkpoints import hash_weights
from fungi.backbones.families import digits_vit
from fungi.data.base import open_split
from fungi.runtime.seeds import seeded, torch_generator

LEARNED_CLASSES = 5
"""Number of digits in the training: 0 to 4."""
EPOCHS, BATCH, WARMUP = 30, 64, 3
"""Number of epochs, images per batch, and number of epochs in which the learning rate rises."""
LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING = 1e-3, 0.05, 0.1
ROTATION, SHIFT, SCALE = math.radians(15), 0.15, 0.15
"""Largest rotation in radians, largest shift in half sides of the image, and largest relative change of the size."""


def main() -> None:
    """Train the backbone, save it, load it again as users do, and print its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=digits_vit.WEIGHTS, help="file to write")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)

    images, labels = train_rows()
    learned = labels < LEARNED_CLASSES
    with seeded(arguments.seed, "train-digits-vit"):
        model = train(images[learned], labels[learned], seed=arguments.seed)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, arguments.output)

    model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    report(model.eval(), images, labels)
    print(f"wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB), weights {hash_weights(model)}")


def train_rows() -> tuple[Tensor, Tensor]:
    """Return train images `[n 3 32 32]`, transformed as for evaluation, and their labels `[n]`."""
    samples = open_split("digits", "train", Path())
    size = digits_vit.INPUT.size
    pixels = [
        np.asarray(samples.load(row).resize((size, size), Image.Resampling.BICUBIC)) for row in range(len(samples))
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255  # [n h w c] -> [n c h w]
    return (images - 0.5) / 0.5, torch.from_numpy(samples.targets.astype(np.int64))


def train(images: Tensor, labels: Tensor, *, seed: int) -> nn.Module:
    """Train the backbone with a linear classifier on its embeddings. Return the backbone without the classifier."""
    backbone = digits_vit.build()
    model = nn.Sequential(backbone, nn.Linear(digits_vit.WIDTH, LEARNED_CLASSES))
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARMUP / EPOCHS
    )
    generator = torch_generator(seed, "train-digits-vit", "rows and augmentation")
    start = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            scores = model(augment(images[rows], generator))
            loss = functional.cross_entropy(scores, labels[rows], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % 10 == 0:
            print(f"epoch {epoch}: loss {np.mean(losses):.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return backbone


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, shift and scale each image by small random amounts. Border pixels repeat."""
    draws = 2 * torch.rand(4, len(images), generator=generator) - 1  # -1..1
    angle, scale = ROTATION * draws[0], 1 + SCALE * draws[1]
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    first_row = torch.stack([cosine, -sine, SHIFT * draws[2]], -1)
    second_row = torch.stack([sine, cosine, SHIFT * draws[3]], -1)
    grid = functional.affine_grid(torch.stack([first_row, second_row], 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def report(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Print the leave-one-out accuracy of learned digits, new digits and all digits."""
    embeddings = functional.normalize(torch.cat([model(part) for part in images.split(256)]), dim=1)
    for name, chosen in {
        "learned": labels < LEARNED_CLASSES,
        "new": labels >= LEARNED_CLASSES,
        "all": labels >= 0,
    }.items():
        accuracy = leave_one_out(embeddings[chosen], labels[chosen])
        print(f"leave-one-out 20-NN accuracy, train rows of {name} digits: {100 * accuracy:.1f} %")


def leave_one_out(embeddings: Tensor, labels: Tensor, k: int = 20) -> float:
    """Return the accuracy of a vote among the k most similar other rows."""
    similarity = (embeddings @ embeddings.T).fill_diagonal_(-math.inf)  # [n n]
    votes = functional.one_hot(labels[similarity.topk(k).indices], 10).sum(1)  # [n k 10] -> [n 10]
    return (votes.argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
