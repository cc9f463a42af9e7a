"""`fungi explain`: write a page of the samples that one feature classifies correctly and another does not."""

from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger
from fungi.settings import setting

DESCRIPTION = """Write a page of the samples that only one of two features classifies correctly, from a result file.

  fungi explain features/results/knn/digits/digits-vit.json
  fungi explain features/results/knn/digits/digits-vit.json --features embeddings embeddings+kl

Pictures and texts are read from the dataset that the features were computed from. If this dataset is missing, the
samples are listed by their ids."""


@dataclass(frozen=True, kw_only=True)
class ExplainSettings:
    """Flags of `fungi explain`."""

    result: Path = setting(Path(), "result file of knn, linear or cluster", first_word=True)
    features: tuple[str, ...] = setting(
        (),
        "two features of the result (default: the first feature and the combination of the most features)",
        topic="features",
    )
    count: int = setting(60, "maximum number of samples in each of the two lists of the page", within=(1, 10_000))
    data_dir: Path | None = setting(
        None, "folder of the datasets (default: the folder that the extraction used)", topic="data"
    )
    output: Path | None = setting(
        None,
        "page to write (default: <result>.html in the folder of the result)",
        flag="--page",
        aliases=("--output",),
        topic="files",
    )

    def __post_init__(self) -> None:
        if self.result == Path():
            raise FungiError("name the result file: fungi explain features/results/knn/digits/digits-vit.json.")
        if len(self.features) not in (0, 2):
            raise FungiError("--features takes two features of the result, e.g. embeddings embeddings+kl.")


def run(settings: ExplainSettings) -> Path:
    """Write the page, and return its path."""
    from fungi.explain.disagreements import compare, samples_of
    from fungi.explain.page import page
    from fungi.results.result_file import read_result

    content = read_result(settings.result)
    comparison = compare(content, settings.result, settings.features)
    samples = samples_of(content, settings.data_dir)
    if runs := len(content.get("runs", [])):
        logger.info(f"the result has {runs} runs; the page shows the first.")
    evaluation = content["settings"]
    title = f"{content.get('task', 'result')} of {evaluation.get('dataset')}, {evaluation.get('backbone')}"
    path = settings.output or settings.result.with_suffix(".html")
    write_text_atomically(path, page(comparison, samples.load if samples else None, settings.count, title))
    first, second = comparison.features
    print(f"correct only with {second}: {len(comparison.only_second)}; only with {first}: {len(comparison.only_first)}")
    print(f"wrote {path}")
    return path
