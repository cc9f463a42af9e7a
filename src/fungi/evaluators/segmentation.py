"""Prediction of masks from retrieved patches, and the metric of segmentation (spec dense 3.4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, UInt8
from torch import Tensor
from torch.nn.functional import interpolate


def attention_vote(
    scores: Float[Tensor, "q k"], labels: Float[Tensor, "q k c"], temperature: float
) -> Float[Tensor, "q c"]:
    """Return the mean of the labels of the neighbours, weighted by the softmax of cosine / temperature."""
    weights = torch.softmax(scores / temperature, dim=1)
    return torch.einsum("qk,qkc->qc", weights, labels)


def upsampled_classes(
    votes: Float[Tensor, "t c"], size: int, excluded: Sequence[int] = ()
) -> Int64[Tensor, "size size"]:
    """Return the class with the largest vote for each pixel. Votes of patches are resized bilinearly to the image size.

    size: side of the image in pixels. excluded: classes that are never predicted.
    """
    side = round(len(votes) ** 0.5)
    maps = votes.T.unflatten(1, (side, side)).unsqueeze(0)  # [t c] -> [1 c y x]
    maps = interpolate(maps, (size, size), mode="bilinear", align_corners=False)[0]
    if excluded:
        maps[list(excluded)] = -1  # less than every vote
    return maps.argmax(dim=0)


def confusion(
    truth: UInt8[np.ndarray, "h w"], predicted: Integer[np.ndarray, "h w"], classes: int, ignored: int
) -> Int64[np.ndarray, "c c"]:
    """Return the number of pixels by true class (rows) and predicted class (columns).

    Pixels whose true class is `ignored`, or not less than `classes` (void), do not count.
    """
    is_counted = (truth != ignored) & (truth < classes)
    pairs = truth[is_counted].astype(np.int64) * classes + predicted[is_counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def segmentation_scores(matrix: Int64[np.ndarray, "c c"], unscored: Sequence[int] = ()) -> dict[str, Any]:
    """Return `mIoU`, `IoU` of each scored class, and `pixel-accuracy`, as fractions.

    unscored: classes that are left out of mIoU and IoU.

    IoU is TP / (TP + FP + FN). It is 0 for a class with neither true nor predicted pixels.
    """
    correct = np.diagonal(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - correct
    iou = np.divide(correct, union, out=np.zeros_like(correct), where=union > 0)
    scored_iou = np.delete(iou, list(unscored))
    total = int(matrix.sum())
    return {
        "mIoU": float(scored_iou.mean()),
        "IoU": scored_iou.tolist(),
        "pixel-accuracy": float(correct.sum() / total) if total else 0.0,
    }


def matched_miou(matrix: Int64[np.ndarray, "c c"], unscored: Sequence[int] = ()) -> float:
    """Return the mIoU after the best one-to-one matching of predicted and true classes (spec dense 6, H4)."""
    from scipy.optimize import linear_sum_assignment

    union = matrix.sum(axis=0)[None, :] + matrix.sum(axis=1)[:, None] - matrix
    iou = np.divide(matrix, union, out=np.zeros(matrix.shape), where=union > 0)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return segmentation_scores(matrix[:, columns[np.argsort(rows)]], unscored)["mIoU"]
