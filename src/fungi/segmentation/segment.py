"""`fungi segment`: retrieval-based in-context segmentation (spec dense), from images and masks to mIoU."""

from typing import Any

from fungi.runtime.log import logger
from fungi.runtime.tracking import track
from fungi.segmentation.settings import SegmentSettings

DESCRIPTION = """Segment images with the labels of their patches' nearest neighbours among training patches.

  fungi segment                                                     the included scenes of digits
  fungi segment --dataset pascal-voc --backbone dino_vits16 --memory-size 102400
  fungi segment --dataset pascal-voc --backbone dino_vits16 --train-images 83    the data-efficient setting
  fungi segment --dataset mine=masks:PATH --backbone dino_vits16

Banks are saved in <root>/banks and reused. An interrupted run resumes. A bank that fits into --memory-gb is read once.
Each search in a larger bank reads all its rows again, part by part."""


def run(settings: SegmentSettings) -> dict[str, Any]:
    """Score the features that are missing in the result file; return the content of the file."""
    from fungi.results.result_file import Run
    from fungi.segmentation.evaluation import prepare

    segmentation = prepare(settings)
    provenances = {
        split: {"embeddings": {"provenance": segmentation.context.base_provenance(split, samples)}}
        for split, samples in (("train", segmentation.train), ("test", segmentation.test))
    }
    run = Run(label={"root": str(settings.root)}, features=provenances)
    result = settings.open_result([run])
    missing = [feature for feature in settings.features if feature not in run.results]
    if missing:
        segmentation.check_inputs()
    for feature in missing:
        scores = segmentation.score(feature)  # type: ignore[arg-type]  # checked by the settings
        result.add(run, feature, scores)
        track({f"{feature}/mIoU": scores["mIoU"]})
    result.finish()
    logger.info("wrote %s", result.path)
    return result.content()


def show(settings: SegmentSettings, content: dict[str, Any]) -> None:
    """Print one line of scores per feature."""
    for feature, scores in content["results"].items():
        extra = "".join(
            f", {name} {100 * scores[name]:.2f} %"
            for name in ("matched-mIoU", "recall", "recall-of-negatives")
            if name in scores
        )
        main = f"mIoU {100 * scores['mIoU']:.2f} %, pixel accuracy {100 * scores['pixel-accuracy']:.2f} %"
        print(f"{feature}: {main}{extra}")
