"""`fungi in-context`: examples for a language model, retrieved with embeddings or FUNGI features (spec text 5.1)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fungi.combine.names import Combination, in_order, name_of
from fungi.combine.pca import Reducer, reduced
from fungi.data.base import DatasetSpec, Samples, resolve_dataset
from fungi.errors import FungiError, RefusedJoinError
from fungi.evaluators.in_context import examples_in_order, proxies, score_answers
from fungi.in_context.chat_endpoint import ChatEndpoint
from fungi.in_context.prompts import Prompt, append_answer, compose, read_answers, write_prompts
from fungi.report.result_file import ResultFile, Run, Scores
from fungi.runtime.device import choose_device
from fungi.runtime.log import progress
from fungi.scoring.feature_files import SplitFiles, open_splits, provenance
from fungi.scoring.feature_settings import FeatureSettings, open_result
from fungi.settings import setting

DESCRIPTION = """Find the training texts nearest to each test text, and put them as examples into prompts.

  fungi in-context --dataset banking-77 --backbone bert-base-uncased            prompts, and proxies without a model
  fungi in-context ... --endpoint http://localhost:8000/v1 --model NAME         ask any endpoint with OpenAI's interface
  fungi in-context ...                                  score the answers that are there, wherever they come from

Prompts go to <root>/in-context/<dataset>/<backbone>/<features>.prompts.jsonl; answers, one {"id", "answer"} per line,
are read from (and written to) <features>.answers.jsonl beside it. An interrupted run goes on where it was."""


@dataclass(frozen=True, kw_only=True)
class InContextSettings(FeatureSettings):
    """Flags of `fungi in-context`."""

    task: ClassVar[str] = "in-context"

    dataset: str = setting("banking-77", "text dataset")
    backbone: str = setting("bert-base-uncased", "text backbone whose features retrieve")
    data_dir: Path = setting(Path("data"), "folder of the datasets", decides="nothing")
    k: int = setting(20, "examples per prompt", within=(1, 10_000), mark="k")
    queries: int | None = setting(
        None, "take the first so many test texts; all if absent", within=(1, 10**9), mark="first"
    )
    endpoint: str | None = setting(
        None, "ask this address (with /v1) for answers; nothing is sent if absent", decides="nothing"
    )
    model: str = setting("gpt-4o-mini", "model to ask", mark="")
    key_variable: str = setting(
        "OPENAI_API_KEY", "environment variable that holds the endpoint's key, if it wants one", decides="nothing"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.takes_files or len(self.root) > 1:
            raise FungiError("in-context retrieval reads one --root; explicit files have no texts to go with them.")

    def file(self, combination: Combination, kind: str) -> Path:
        """The file of prompts or answers of a combination."""
        folder = self.root[0] / "in-context" / self.dataset_name / self.backbone_name
        return folder / f"{name_of(combination)}.{kind}.jsonl"


class Retrieval:
    """Texts, labels and features of both splits, checked to belong together."""

    def __init__(self, settings: InContextSettings) -> None:
        self.settings = settings
        self.dataset = resolve_dataset(settings.dataset, settings.data_dir)
        if self.dataset.modality != "text":
            raise FungiError(
                f"dataset {self.dataset.name!r} has no texts but {self.dataset.modality}. Use a text dataset."
            )
        self.splits = open_splits(settings, settings.root[0], ("train", "test"))
        self.train, self.test = (
            _opened(self.dataset, name, settings, self.splits[split])
            for split, name in (("train", settings.train_split), ("test", settings.test_split))
        )
        self.device = choose_device(settings.device)
        self._train_source = self.splits["train"].source(settings)
        self._test_source = self.splits["test"].source(settings)
        self._reducer = Reducer(self._train_source, settings.reduced_dim, self.device)
        if len(self.train) < settings.k:
            raise FungiError(
                f"--k {settings.k} examples were asked for, but there are only {len(self.train)} train rows."
            )

    @property
    def combinations(self) -> list[Combination]:
        """The embeddings alone, and all features together."""
        features = in_order(self.splits["train"].arrays)
        return list(dict.fromkeys([features[:1], features]))

    @property
    def query_rows(self) -> range:
        """Test rows that are asked about."""
        return range(min(self.settings.queries or len(self.test), len(self.test)))

    def prompts(self, combination: Combination) -> tuple[list[Prompt], dict[str, float]]:
        """Prompts of all queries, and the model-free proxies."""
        reduction = self._reducer.fit(combination)
        train = reduced(self._train_source, reduction, self.device)
        queries = reduced(self._test_source, reduction, self.device)[: len(self.query_rows)]
        examples = examples_in_order(train, queries, self.settings.k)
        labels = self.test.targets[: len(self.query_rows)]
        made = [self._prompt(row, near) for row, near in zip(self.query_rows, examples.tolist(), strict=True)]
        return made, proxies(examples, self.train.targets, labels)

    def _prompt(self, row: int, near: list[int]) -> Prompt:
        names = self.train.class_names
        shown = [(self.train.load(example), names[self.train.targets[example]]) for example in near]
        text, label = self.test[row]
        return Prompt(self.test.ids[row], names[label], compose(text, shown, names, self.dataset.title))


def _opened(dataset: DatasetSpec, split: str, settings: InContextSettings, files: SplitFiles) -> Samples:
    """The texts of a split; RefusedJoinError where they are not those that the features were made of."""
    samples = dataset.open_split(split, settings.data_dir)
    if not samples.class_names:
        raise FungiError(f"dataset {dataset.name!r} has no names of classes, which prompts need.")
    for array in files.arrays.values():
        made_of = array.birth.dataset_fingerprint if array.birth else samples.fingerprint()
        if made_of != samples.fingerprint() or array.rows != len(samples):
            raise RefusedJoinError(
                f"{array.path} was made of other texts (fingerprint {made_of[:12]}, {array.rows} rows) than those of "
                f"{dataset.name} {split} in {settings.data_dir} ({samples.fingerprint()[:12]}, {len(samples)} rows). "
                "Extract the features again, or name the right --data-dir."
            )
    return samples


def run(settings: InContextSettings) -> dict[str, Any]:
    """Write prompts, ask where an endpoint is named, score what is answered; the content of the result file."""
    endpoint = _endpoint(settings)
    retrieval = Retrieval(settings)
    label = {"root": str(settings.root[0]), "few_shot_seed": None}
    run_entry = Run(label=label, features=provenance(retrieval.splits))
    result = open_result(settings, settings.task_name, [run_entry])
    for combination in retrieval.combinations:
        _evaluate(settings, retrieval, endpoint, combination, result)
    print(f"wrote {result.path}")
    return result.content()


def _evaluate(
    settings: InContextSettings,
    retrieval: Retrieval,
    endpoint: ChatEndpoint | None,
    combination: Combination,
    result: ResultFile,
) -> None:
    prompts, promised = retrieval.prompts(combination)
    write_prompts(settings.file(combination, "prompts"), prompts)
    print(f"wrote {settings.file(combination, 'prompts')}: {len(prompts)} prompts")
    answers = settings.file(combination, "answers")
    if endpoint is not None:
        ask_all(endpoint, prompts, answers)
    scores: Scores = {**promised}
    if found := read_answers(answers):
        expected = {prompt.id: prompt.label for prompt in prompts}
        scores |= score_answers(found, expected, retrieval.train.class_names)
    result.add(result.runs[0], name_of(combination), scores)


def ask_all(endpoint: ChatEndpoint, prompts: Sequence[Prompt], answers: Path) -> None:
    """Ask what has no answer yet, and keep each answer as it comes."""
    known = read_answers(answers)
    missing = [prompt for prompt in prompts if prompt.id not in known]
    for prompt in progress(missing, total=len(missing), label=endpoint.model, unit="query"):
        append_answer(answers, prompt, endpoint.ask(prompt.messages))


def _endpoint(settings: InContextSettings) -> ChatEndpoint | None:
    if settings.endpoint is None:
        return None
    return ChatEndpoint(settings.endpoint, settings.model, os.environ.get(settings.key_variable, ""))


def show(settings: InContextSettings, content: dict[str, Any]) -> None:
    """Print a line per combination."""
    for name, scores in content["results"].items():
        print(f"{name}: " + ", ".join(_shown(key, value) for key, value in scores.items()))


def _shown(key: str, value: float | int) -> str:
    return f"{key} {value}" if isinstance(value, int) else f"{key} {100 * value:.1f} %"
