"""`fungi in-context`: retrieve examples for a language model with embeddings or FUNGI features (spec text 5.1)."""

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

DESCRIPTION = """Find the nearest training texts of each test text, and use them as examples in prompts.

  fungi in-context --dataset banking-77 --backbone bert-base-uncased            write prompts, and score without a model
  fungi in-context ... --endpoint http://localhost:8000/v1 --model NAME         ask an endpoint with OpenAI's interface
  fungi in-context ...                                                          score existing answers from any source

Prompts are written to <root>/in-context/<dataset>/<backbone>/<features>.prompts.jsonl. Answers are in
<features>.answers.jsonl in the same folder, one {"id", "answer"} per line. Settings that differ from the defaults are
part of both names, and another model is part of the name for answers (embeddings-k5-MODEL.answers.jsonl). An
interrupted run continues where it stopped."""


def run(settings: InContextSettings) -> dict[str, Any]:
    """Write prompts, ask the endpoint if there is one, and score the answers; return the content of the result file."""
    from fungi.evaluators.in_context import score_answers
    from fungi.in_context.retrieval import Retrieval
    from fungi.scoring.feature_files import provenance, provenances_of

    endpoint = None
    if settings.endpoint is not None:
        endpoint = ChatEndpoint(settings.endpoint, settings.model, os.environ.get(settings.key_variable, ""))
    retrieval = Retrieval(settings)
    scored_run = Run(
        label={"root": str(settings.root[0]), "few_shot_seed": None}, features=provenance(retrieval.splits)
    )
    result = settings.open_result([scored_run], provenances=provenances_of(retrieval.splits))
    for combination in retrieval.combinations:
        prompts, scores = retrieval.prompts(combination)
        prompts_file, answers_file = settings.file(combination, "prompts"), settings.file(combination, "answers")
        write_prompts(prompts_file, prompts)
        print(f"wrote {prompts_file}: {len(prompts)} prompts")
        if endpoint is not None:
            ask_all(endpoint, prompts, answers_file)
        if answers := read_answers(answers_file, prompts):
            labels = {prompt.id: prompt.label for prompt in prompts}
            scores |= score_answers(answers, labels, retrieval.train.class_names)
        result.add(scored_run, name_of(combination), scores)
    result.finish()
    print(f"wrote {result.path}")
    return result.content()


def ask_all(endpoint: ChatEndpoint, prompts: Sequence[Prompt], answers_file: Path) -> None:
    """Send the prompts without an answer to the endpoint, and append each answer to the file at once."""
    answers = read_answers(answers_file, prompts)
    missing = [prompt for prompt in prompts if prompt.id not in answers]
    for prompt in progress(missing, label=endpoint.model, unit="prompt"):
        append_answer(answers_file, prompt, endpoint.ask(prompt.messages))


def show(settings: InContextSettings, content: dict[str, Any]) -> None:
    """Print one line per combination."""
    for name, scores in content["results"].items():
        texts = (
            f"{key} {value}" if isinstance(value, int) else f"{key} {100 * value:.1f} %"
            for key, value in scores.items()
        )
        print(f"{name}: " + ", ".join(texts))
