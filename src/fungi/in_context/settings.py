"""Settings of `fungi in-context`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fungi.combine.names import Combination, name_of
from fungi.errors import FungiError
from fungi.results.naming import result_name
from fungi.scoring.feature_settings import FeatureSettings
from fungi.settings import setting


@dataclass(frozen=True, kw_only=True)
class InContextSettings(FeatureSettings):
    """Flags of `fungi in-context`."""

    task: ClassVar[str] = "in-context"
    computed_in: ClassVar[str] = "fungi.in_context.in_context"

    dataset: str = setting("banking-77", "text dataset", topic="data")
    backbone: str = setting("bert-base-uncased", "text backbone of the features", topic="model")
    data_dir: Path = setting(Path("data"), "folder of the datasets", affects="nothing", topic="data")
    k: int = setting(20, "number of examples per prompt", within=(1, 10_000), word_in_file_name="k")
    queries: int | None = setting(
        None, "number of test texts to use, from the first (default: all)", within=(1, 10**9), word_in_file_name="first"
    )
    template: Literal["own", "published"] = setting(
        "own",
        "prompt: ours (own), or the prompt of the author response about banking (published)",
        word_in_file_name="prompt-",
    )
    endpoint: str | None = setting(
        None, "URL (with /v1) to which prompts are sent (default: send nothing)", affects="nothing"
    )
    model: str = setting("gpt-4o-mini", "model to ask", word_in_file_name="")
    key_variable: str = setting(
        "OPENAI_API_KEY", "environment variable with the key of the endpoint, if it needs one", affects="nothing"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.takes_files or len(self.root) > 1:
            raise FungiError("in-context retrieval needs exactly one --root, because explicit files have no texts.")

    def file(self, combination: Combination, kind: Literal["prompts", "answers"]) -> Path:
        """Return the file of prompts or answers of a combination.

        The name contains the settings that differ from the defaults, if they change the content. The number of queries
        is not part of the name.
        """
        folder = self.root[0] / "in-context" / self.dataset_name / self.backbone_name
        leave_out = ("dataset", "backbone", "features", "queries", *(("model",) if kind == "prompts" else ()))
        return folder / f"{result_name(name_of(combination), self, leave_out)}.{kind}.jsonl"
