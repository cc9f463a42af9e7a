"""Retrieve the nearest training texts of test texts, and build prompts from them."""

from fungi.combine.names import Combination, in_order
from fungi.combine.pca import Reducer, reduced
from fungi.data.base import DatasetSpec, Samples, resolve_dataset
from fungi.errors import FungiError, RefusedJoinError, counted
from fungi.evaluators.in_context import examples_in_order, proxies
from fungi.in_context.prompts import Prompt, compose, compose_as_published
from fungi.in_context.settings import InContextSettings
from fungi.profiles import choose_profile
from fungi.results.result_file import Scores
from fungi.runtime.device import choose_device
from fungi.scoring.feature_files import SplitFiles, open_splits


class Retrieval:
    """Texts, labels and features of the train and test splits, and the prompts that are built from them.

    Raises FungiError if the features were computed from other texts.
    """

    def __init__(self, settings: InContextSettings) -> None:
        self.settings = settings
        self.dataset = resolve_dataset(settings.dataset, settings.data_dir)
        if self.dataset.modality != "text":
            raise FungiError(
                f"dataset {self.dataset.name!r} has the modality {self.dataset.modality}. Use a text dataset."
            )
        self.splits = open_splits(settings, settings.root[0], ("train", "test"))
        self.train, self.test = (
            _open_texts(self.dataset, name, settings, self.splits[split])
            for split, name in (("train", settings.train_split), ("test", settings.test_split))
        )
        self.device = choose_device(settings.device)
        self._train_source = self.splits["train"].source(settings)
        self._test_source = self.splits["test"].source(settings)
        self._reducer = Reducer(self._train_source, settings.reduced_dim, self.device)
        if len(self.train) < settings.k:
            raise FungiError(
                f"--k asks for {settings.k} examples, but there are only {counted(len(self.train), 'train row')}."
            )

    @property
    def combinations(self) -> list[Combination]:
        """The combinations to use: only embeddings, and all features."""
        features = in_order(self.splits["train"].arrays)
        return list(dict.fromkeys([features[:1], features]))

    @property
    def query_rows(self) -> range:
        """The test rows for which prompts are written."""
        return range(min(self.settings.queries or len(self.test), len(self.test)))

    def prompts(self, combination: Combination) -> tuple[list[Prompt], Scores]:
        """Return the prompts of all queries, and scores that need no model."""
        reduction = self._reducer.fit(combination)
        train = reduced(self._train_source, reduction, self.device)
        queries = reduced(self._test_source, reduction, self.device)[: len(self.query_rows)]
        examples = examples_in_order(train, queries, self.settings.k)
        labels = self.test.targets[: len(self.query_rows)]
        prompts = [self._prompt(row, rows) for row, rows in zip(self.query_rows, examples.tolist(), strict=True)]
        return prompts, {**proxies(examples, self.train.targets, labels)}

    def _prompt(self, row: int, example_rows: list[int]) -> Prompt:
        """Return the prompt of a test row. example_rows: train rows, in the order of the examples."""
        names = self.train.class_names
        examples = [(self.train.load(example), names[self.train.targets[example]]) for example in example_rows]
        text, label = self.test[row]
        if self.settings.template == "published":
            return Prompt(self.test.ids[row], names[label], compose_as_published(text, examples, names))
        return Prompt(self.test.ids[row], names[label], compose(text, examples, names, self.dataset.title))


def _open_texts(dataset: DatasetSpec, split: str, settings: InContextSettings, files: SplitFiles) -> Samples:
    """Return the texts of a split. Raises RefusedJoinError if the features were computed from other texts."""
    provenances = [array.provenance for array in files.arrays.values() if array.provenance]
    if any(choose_profile(provenance.profile).published_labels for provenance in provenances):
        dataset = dataset.as_published()
    samples = dataset.open_split(split, settings.data_dir)
    if not samples.class_names:
        raise FungiError(f"dataset {dataset.name!r} has no class names, but prompts need them.")
    for array in files.arrays.values():
        fingerprint = array.provenance.dataset_fingerprint if array.provenance else samples.fingerprint()
        if fingerprint != samples.fingerprint() or array.rows != len(samples):
            raise RefusedJoinError(
                f"{array.path} was computed from other texts (fingerprint {fingerprint[:12]}, "
                f"{counted(array.rows, 'row')}) than {dataset.name} {split} in {settings.data_dir} has "
                f"({samples.fingerprint()[:12]}, {counted(len(samples), 'row')}). "
                "Extract the features again, or correct --data-dir."
            )
    return samples
