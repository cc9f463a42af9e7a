"""Build torchvision's Mask R-CNN on a vision transformer, and score its predictions as COCO does."""

import contextlib
import io
from math import lcm
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.loading import Backbone
from fungi.pretraining.dense.coco import CocoImages
from fungi.pretraining.dense.pyramid import TransformerPyramid
from fungi.pretraining.dense.settings import DetectSettings
from fungi.runtime.seeds import seeded

ANCHOR = 8
"""Side of an anchor, in cells of its feature map."""
ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height / width of the anchors of every feature map."""
Record = dict[str, Any]
"""A predicted object in the format of COCO's result files."""


def mask_rcnn(backbone: Backbone, classes: int, settings: DetectSettings) -> Any:
    """Return a detector with random heads.

    classes: number of classes without the background. The input of the detector is a list of RGB images `[3 h w]` with
    values in [0, 1]. The detector resizes and normalises these images.
    """
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    with seeded(settings.seed, "detector"):
        pyramid = TransformerPyramid(backbone, settings, extra=True)
        sides = tuple((ANCHOR * stride,) for stride in pyramid.strides)
        anchors = AnchorGenerator(sides, (ASPECT_RATIOS,) * len(sides))
        mean, deviation = backbone.input.statistics
        return MaskRCNN(
            pyramid,
            classes + 1,
            min_size=settings.short_sides,
            max_size=settings.longest_side,
            image_mean=list(mean),
            image_std=list(deviation),
            rpn_anchor_generator=anchors,
            box_batch_size_per_image=settings.proposals,
            size_divisible=lcm(32, 2 * pyramid.patch_size),  # 32 is torchvision's value; the pyramid needs two patches
        )


@torch.no_grad()
def records(model: nn.Module, image: Float[Tensor, "3 h w"], image_id: int, class_ids: list[int]) -> list[Record]:
    """Return the predicted objects of an image as COCO's records: class, box, score and mask.

    class_ids: COCO's ids of the classes of the detector.
    """
    from pycocotools.mask import encode
    from torchvision.ops import box_convert

    (output,) = model([image])
    boxes = box_convert(output["boxes"], "xyxy", "xywh").tolist()
    masks = (output["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0)  # [n 1 h w] -> [h w n]
    columns = (boxes, output["scores"].tolist(), output["labels"].tolist(), encode(np.asfortranarray(masks.cpu())))
    return [
        {"image_id": image_id, "category_id": class_ids[label - 1], "bbox": box, "score": score, "segmentation": mask}
        for box, score, label, mask in zip(*columns, strict=True)
    ]


def coco_scores(images: CocoImages, predictions: list[Record]) -> dict[str, float]:
    """Return COCO's average precisions of boxes and masks: over all thresholds, at threshold 0.5 and at threshold 0.75.

    Without predicted objects, all scores are 0.
    """
    from pycocotools.cocoeval import COCOeval

    names = ("AP", "AP50", "AP75")
    scores = {f"{kind} {name}": 0.0 for kind in ("box", "mask") for name in names}
    if not predictions:
        return scores
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
        index = images.coco.loadRes(predictions)
        for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
            evaluation = COCOeval(images.coco, index, iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            # The first three of the twelve numbers of pycocotools. They are -1 if no image has an object.
            for name, value in zip(names, evaluation.stats[:3], strict=True):
                scores[f"{kind} {name}"] = max(0.0, float(value))
    return scores
