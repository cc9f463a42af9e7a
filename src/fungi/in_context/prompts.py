"""Prompts of in-context classification, and the JSON Lines files of prompts and answers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError
from fungi.results.naming import short_hash
from fungi.runtime.files import write_text_atomically

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """The prompt of a query: id of the query in the dataset, name of its label, and messages to send."""

    id: str
    label: str
    messages: Messages

    @property
    def key(self) -> str:
        """Hash of the messages. Answers store it, so that an answer to other messages is recognised."""
        return short_hash(json.dumps(self.messages))


def compose(query: str, examples: Sequence[tuple[str, str]], names: Sequence[str], task: str) -> Messages:
    """Return the messages of a query (spec text 5.1): task, label names, format of the answer, examples, query."""
    instruction = (
        f"Classify a text. Task: {task}. The labels are:\n{', '.join(names)}\n"
        "Answer with exactly one of these labels and nothing else: no explanation, no punctuation, no quotes."
    )
    example_text = "\n\n".join(f"Text: {text}\nLabel: {label}" for text, label in examples)
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": f"Examples:\n\n{example_text}\n\nText: {query}\nLabel:"},
    ]


def compose_as_published(query: str, examples: Sequence[tuple[str, str]], names: Sequence[str]) -> Messages:
    """Return the message of the author response for banking-77. The format of the examples is our choice."""
    example_text = "\n".join(f"({text}, {label})" for text, label in examples)
    return [
        {
            "role": "user",
            "content": "You have to annotate banking-related queries with an appropriate intent.\n"
            f"You must choose a single class in the following comma-separated list:\n\n{', '.join(names)}\n\n"
            f"You must reply only with the class name, nothing more. Here's some examples:\n\n{example_text}\n\n"
            f"The query sample is: {query}",
        }
    ]


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write a file of prompts atomically."""
    write_text_atomically(path, "".join(json.dumps(vars(prompt), ensure_ascii=False) + "\n" for prompt in prompts))


def read_answers(path: Path, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Return the answers by query id; empty if there is no file. Raises FungiError with the number of an invalid line.

    If a query has several answers, the last one counts. An incomplete last line is skipped. Answers to another prompt
    of the query (with other features or examples) are skipped, too.
    """
    keys = {prompt.id: prompt.key for prompt in prompts}
    lines = _answers(path) if path.exists() else ()
    return {line["id"]: line["answer"] for line in lines if line.get("prompt") in (None, keys.get(line["id"]))}


def _answers(path: Path) -> Iterator[dict[str, str]]:
    """Yield the entries of a file of answers, except an incomplete last line. Raises FungiError for an invalid line."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            yield {"id": entry["id"], "answer": entry["answer"], **entry}
        except (ValueError, KeyError, TypeError):
            if number == len(lines) and not line.endswith("\n"):
                return
            raise FungiError(
                f'{path}, line {number} is not an answer. Each line is {{"id": ..., "answer": ...}}. Correct the line.'
            ) from None


def append_answer(path: Path, prompt: Prompt, answer: str) -> None:
    """Append an answer to the file. The answer replaces an incomplete last line."""
    line = json.dumps({"id": prompt.id, "answer": answer, "prompt": prompt.key}, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())
