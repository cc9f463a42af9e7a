"""`fungi in-context`: examples for a language model, retrieved with embeddings or FUNGI features (spec text 5.1)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fungi.combine.names import name_of
from fungi.in_context.chat_endpoint import ChatEndpoint
from fungi.in_context.prompts import Prompt, append_answer, read_answers, write_prompts
from fungi.in_context.settings import InContextSettings
from fungi.results.result_file import Run
from fungi.runtime.log import progress

DESCRIPTION = """Find the training texts nearest to each test text, and put them as examples into prompts.

  fungi in-context --dataset banking-77 --backbone bert-base-uncased            prompts, and proxies without a model
  fungi in-context ... --endpoint http://localhost:8000/v1 --model NAME         ask any endpoint with OpenAI's interface
  fungi in-context ...                                  score the answers that are there, wherever they come from

Prompts go to <root>/in-context/<dataset>/<backbone>/<features>.prompts.jsonl; answers, one {"id", "answer"} per line,
are read from (and written to) <features>.answers.jsonl beside it. Unusual settings are part of both names, another
model of that of the answers (embeddings-k5-MODEL.answers.jsonl). An interrupted run goes on where it was."""


def run(settings: InContextSettings) -> dict[str, Any]:
    """Write prompts, ask where an endpoint is named, score what is answered; the content of the result file."""
    from fungi.evaluators.in_context import score_answers
    from fungi.in_context.retrieval import Retrieval
    from fungi.scoring.feature_files import provenance, provenances_of

    endpoint = None
    if settings.endpoint is not None:
        endpoint = ChatEndpoint(settings.endpoint, settings.model, os.environ.get(settings.key_variable, ""))
    retrieval = Retrieval(settings)
    entry = Run(label={"root": str(settings.root[0]), "few_shot_seed": None}, features=provenance(retrieval.splits))
    result = settings.open_result([entry], provenances=provenances_of(retrieval.splits))
    for combination in retrieval.combinations:
        prompts, scores = retrieval.prompts(combination)
        written, answers = settings.file(combination, "prompts"), settings.file(combination, "answers")
        write_prompts(written, prompts)
        print(f"wrote {written}: {len(prompts)} prompts")
        if endpoint is not None:
            ask_all(endpoint, prompts, answers)
        if known := read_answers(answers, prompts):
            expected = {prompt.id: prompt.label for prompt in prompts}
            scores |= score_answers(known, expected, retrieval.train.class_names)
        result.add(entry, name_of(combination), scores)
    result.finish()
    print(f"wrote {result.path}")
    return result.content()


def ask_all(endpoint: ChatEndpoint, prompts: Sequence[Prompt], answers: Path) -> None:
    """Ask what has no answer yet, and keep each answer as it comes."""
    known = read_answers(answers, prompts)
    missing = [prompt for prompt in prompts if prompt.id not in known]
    for prompt in progress(missing, label=endpoint.model, unit="prompt"):
        append_answer(answers, prompt, endpoint.ask(prompt.messages))


def show(settings: InContextSettings, content: dict[str, Any]) -> None:
    """Print a line per combination."""
    for name, scores in content["results"].items():
        shown = (f"{key} {n}" if isinstance(n, int) else f"{key} {100 * n:.1f} %" for key, n in scores.items())
        print(f"{name}: " + ", ".join(shown))
