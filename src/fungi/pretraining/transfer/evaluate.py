"""`fungi udi evaluate`: weighted kNN, linear probe and low-shot logistic regression on vision transformer tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fungi.errors import counted, unknown_name
from fungi.pretraining.transfer.encoder_settings import EncoderSettings
from fungi.results.result_file import Run
from fungi.results.settings import ResultSettings
from fungi.runtime.log import logger
from fungi.settings import require_values, setting

if TYPE_CHECKING:
    from torch import Tensor

    from fungi.backbones.loading import Backbone
    from fungi.data.base import Samples

DESCRIPTION = """Score the tokens of a vision transformer as UDI does: by weighted kNN for several k, by a linear probe,
or by logistic regression on few images (--task logistic --train-share 0.01, or --train-list 1percent.txt).

Features: cls and cls+ (the two class tokens of UDI), concat (both), patch_mean, cls_patch_mean. The command trains on
the train split of the dataset. It scores the test split or, if there is none, the last split. To score a published
checkpoint or your own, use --backbone udi-vits16 --checkpoint FILE."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(ResultSettings, EncoderSettings):
    """Flags of `fungi udi evaluate`: network, images, features and task."""

    task: Literal["knn", "linear", "logistic"] = setting(
        "knn", "knn: weighted kNN; linear: linear probe with SGD; logistic: logistic regression, for low shot"
    )
    features: tuple[str, ...] = setting(
        ("cls",), "features: cls, cls+, concat, patch_mean, cls_patch_mean", affects="which_results", topic="features"
    )
    k: tuple[int, ...] = setting(
        (10, 15, 20, 30, 40, 50, 100, 200), "numbers of neighbours", aliases=("--neighbours",), within=(1, 10**6)
    )
    temperature: float = setting(0.07, "temperature of the votes", within=(1e-4, 100))
    n_last_blocks: int = setting(4, "number of last blocks whose tokens the probe uses", within=(1, 100))
    lr: float = setting(0.02, "learning rate of the probe for a batch of 256 images", within=(0, 1000))
    epochs: int = setting(100, "number of epochs of the probe or of the logistic regression", within=(1, 10**5))
    regularization: tuple[float, ...] = setting(
        (0.01, 0.1, 1.0),
        "penalties of the logistic regression; the command divides them by the number of train rows",
        within=(1e-9, 1e9),
    )
    batch_size: int = setting(
        256, "number of images per batch", within=(1, 65536), aliases=("--batch_size_per_gpu",), topic="machine"
    )
    output: Path | None = setting(
        None, "JSON file of the results; default: the results are only printed", affects="nothing", topic="files"
    )

    def __post_init__(self) -> None:
        from fungi.pretraining.transfer.features import FEATURES

        super().__post_init__()
        require_values(self, "features", "k", "regularization")
        for feature in self.features:
            if feature not in FEATURES:
                raise unknown_name("feature", feature, FEATURES)

    @property
    def task_name(self) -> str:
        """The name of the task: `encoder-knn`."""
        return f"encoder-{self.task}"

    @property
    def dataset_name(self) -> str:
        """The name of the dataset, or the folder of --data-path."""
        return str(self.data_path) if self.data_path else super().dataset_name

    @property
    def backbone_name(self) -> str:
        """The name of the backbone."""
        return self.network

    def outputs(self) -> list[Path]:
        """Return the result file, or an empty list without --output."""
        return [self.output] if self.output else []


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Compute the scores that are missing in the --output file; return settings and scores of all features."""
    splits, backbone = settings.open_rows(), settings.load_network()
    provenances = {
        name: {feature: {"provenance": _provenance(settings, name, samples, backbone)} for feature in settings.features}
        for name, samples in zip(("train", "test"), splits, strict=True)
    }
    evaluation_run = Run(label={}, features=provenances)
    result = settings.open_result([evaluation_run]) if settings.output else None  # gets existing scores from the file
    missing = [feature for feature in settings.features if feature not in evaluation_run.results]
    if missing:
        rows = _encode_splits(settings, backbone, splits, missing)
        evaluation_run.results |= {feature: _score(settings, rows[feature]) for feature in missing}
    if result is None:
        return {"settings": settings.identity(), "results": evaluation_run.results}
    result.finish()
    return result.content()


def show(settings: EvaluateSettings, content: dict[str, Any]) -> None:
    """Print a line per feature and k."""
    for feature, scores in content["results"].items():
        for name, values in scores.items():
            print(f"{feature:<12}{name:<10}" + "  ".join(f"{key} {100 * value:.2f}" for key, value in values.items()))
    if settings.output:
        print(f"wrote {settings.output}")


def _provenance(settings: EvaluateSettings, split: str, samples: "Samples", backbone: "Backbone") -> dict[str, Any]:
    """Return the provenance of the features. The dataset is fingerprinted only if there is a result file."""
    return {
        "dataset": settings.dataset_name,
        "split": split,
        "rows": len(samples),
        "dataset_fingerprint": samples.fingerprint() if settings.output else "",
        "backbone": settings.network,
        "weights_hash": backbone.weights_hash,
        "weights_source": backbone.weights_source,
        "profile": "published",
    }


def _encode_splits(
    settings: EvaluateSettings, backbone: "Backbone", splits: "tuple[Samples, Samples]", names: list[str]
) -> dict[str, tuple[Any, Any, Any, Any]]:
    """Return for each feature: train rows, their targets, test rows, their targets."""
    from fungi.pretraining.processes import decoding_workers
    from fungi.pretraining.transfer.features import encode
    from fungi.runtime.device import choose_device

    device = choose_device(settings.device)
    model: Any = backbone.model  # a VisionTransformer, as load_network checks
    depth = len(model.blocks)
    if settings.task == "linear" and settings.n_last_blocks > depth:
        logger.warning(
            f"--n-last-blocks {settings.n_last_blocks}: the network has only {counted(depth, 'block')}. All blocks are"
            " used."
        )
    block_count = settings.n_last_blocks if settings.task == "linear" else 1
    workers, features = decoding_workers(settings.num_workers, device), tuple(names)
    (train, train_targets), (test, test_targets) = (
        encode(
            backbone,
            split,
            features,  # type: ignore[arg-type]  # checked by the settings
            device,
            batch_size=min(settings.batch_size, 64),  # limits the memory; features do not depend on the batch
            block_count=block_count,
            workers=workers,
        )
        for split in splits
    )
    return {name: (train[name], train_targets, test[name], test_targets) for name in names}


def _score(settings: EvaluateSettings, rows: tuple[Any, Any, Any, Any]) -> dict[str, dict[str, float]]:
    """Return the scores of a feature for each k or penalty. rows: train rows and targets, test rows and targets."""
    if settings.task == "linear":
        from fungi.evaluators.linear_sgd import linear_probe

        options: Any = {"rate": settings.lr, "epochs": settings.epochs, "seed": settings.seed}
        return {"linear": linear_probe(*rows, batch=settings.batch_size, **options)}
    if settings.task == "logistic":
        return _logistic_regression(settings, *rows)
    from fungi.evaluators.weighted_knn import weighted_knn

    # If every k is too large, weighted_knn raises the error for the largest.
    possible_k = [k for k in settings.k if k <= len(rows[0])] or [max(settings.k)]
    if len(possible_k) < len(settings.k):
        omitted = ", ".join(str(k) for k in settings.k if k not in possible_k)
        logger.warning(f"k = {omitted}: not scored, because there are only {counted(len(rows[0]), 'train row')}.")
    scores_by_k = weighted_knn(*rows, neighbours=possible_k, temperature=settings.temperature)
    return {f"k={k}": scores for k, scores in scores_by_k.items()}


def _logistic_regression(
    settings: EvaluateSettings, train: "Tensor", train_targets: "Tensor", test: "Tensor", test_targets: "Tensor"
) -> dict[str, dict[str, float]]:
    """Return the accuracy for each penalty. The penalties are divided by the number of train rows (spec udi 7.4)."""
    from torch.nn.functional import normalize

    from fungi.evaluators import NO_CYANURE
    from fungi.evaluators.linear import LabelledRows, fit_classifier
    from fungi.evaluators.logistic import LogisticOptions

    train_rows, test_rows = (
        LabelledRows(normalize(rows, dim=1), targets.numpy())
        for rows, targets in ((train, train_targets), (test, test_targets))
    )
    options = LogisticOptions(tolerance=1e-3, max_epochs=settings.epochs, seed=settings.seed)
    if options.solver != "cyanure":
        logger.info(NO_CYANURE)
    return {
        f"l2={penalty:g}": {"accuracy": fit_classifier(train_rows, penalty / len(train), options).accuracy(test_rows)}
        for penalty in settings.regularization
    }
