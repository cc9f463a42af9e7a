"""In-context retrieval from feature files to scores. A local server replaces the language model."""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fungi.commands import COMMANDS
from fungi.data.base import DATASETS, Samples, open_split
from fungi.errors import FungiError, RefusedJoinError
from fungi.evaluators.in_context import examples_in_order, proxies, score_answers
from fungi.extraction.extract_gradients import run as extract
from fungi.extraction.gradient_settings import GradientSettings
from fungi.in_context.chat_endpoint import ChatEndpoint
from fungi.in_context.in_context import run
from fungi.in_context.prompts import compose
from fungi.in_context.retrieval import Retrieval
from fungi.in_context.settings import InContextSettings

TEXTS = {"World": "peace talks in Geneva", "Sports": "late goal wins match", "Business": "shares and profits fall"}


def write_data(folder: Path, rows: dict[str, int], word: str = "day") -> None:
    """Write texts of three classes. rows: split -> number of texts per class. word: a word of every text."""
    (folder / "ag-news").mkdir(parents=True, exist_ok=True)
    for split, count in rows.items():
        first = 100 if split == "test" else 0  # so that no test text is a train text
        lines = [
            json.dumps({"text": f"{text}, {word} {number}", "label": label})
            for number in range(first, first + count)
            for label, text in TEXTS.items()
        ]
        (folder / "ag-news" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extract features of a few texts, and return the folder that contains `data` and `features`."""
    folder = tmp_path_factory.mktemp("in-context")
    write_data(folder / "data", {"train": 6, "test": 2})
    extract(
        GradientSettings(
            dataset="ag-news",
            backbone="tiny-bert",
            data_dir=folder / "data",
            root=folder / "features",
            objective=("kl",),
            with_embeddings=True,
            device="cpu",
        )
    )
    return folder


@pytest.fixture
def settings(extracted: Path, tmp_path: Path) -> InContextSettings:
    """Return settings with links to the features, and with a separate root for each test."""
    root = tmp_path / "features"
    root.mkdir()
    for name in ("embeddings", "gradients"):
        (root / name).symlink_to(extracted / "features" / name)
    return InContextSettings(
        dataset="ag-news", backbone="tiny-bert", root=(root,), data_dir=extracted / "data", k=3, device="cpu"
    )


class Stub:
    """A chat endpoint that answers with the label of the first example, or with `body` if it is set.

    failures: HTTP status codes of the next requests, which get no answer.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures: list[int] = []
        self.body: str | None = None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.requests.append({"path": self.path, **content})
                stub.keys.append(self.headers.get("Authorization"))
                if stub.failures:
                    self.send_error(stub.failures.pop(0))
                    return
                label = content["messages"][1]["content"].split("Label: ")[1].split("\n")[0]
                body = json.dumps({"choices": [{"message": {"role": "assistant", "content": f" {label}\n"}}]}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body if stub.body is None else stub.body.encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Return a running chat endpoint."""
    endpoint = Stub()
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()
    thread.join()


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_prompts_contain_task_labels_examples_and_query(settings):
    content = run(settings)
    assert set(content["results"]) == {"embeddings", "embeddings+kl"}
    folder = settings.root[0] / "in-context" / "ag-news" / "tiny-bert"
    prompts = lines(folder / "embeddings+kl-k3.prompts.jsonl")
    test = open_split("ag-news", "test", settings.data_dir)
    assert [prompt["id"] for prompt in prompts] == list(test.ids)
    for row, prompt in enumerate(prompts):
        system, user = (message["content"] for message in prompt["messages"])
        assert "World, Sports, Business, Sci/Tech" in system
        assert "nothing else" in system
        assert user.count("Text: ") == 4  # three examples and the query
        assert user.endswith(f"Text: {test.load(row)}\nLabel:")
        assert prompt["label"] == test.class_names[test.targets[row]]
    for scores in content["results"].values():
        assert scores["contains-label"] == 1.0
        assert "answer-accuracy" not in scores


def test_the_published_prompt_equals_the_author_response(settings):
    published = replace(settings, template="published")
    (prompt, *_), _ = Retrieval(published).prompts(("embeddings",))
    (own, *_), _ = Retrieval(settings).prompts(("embeddings",))
    (message,) = prompt.messages
    lines = message["content"].split("\n")
    assert message["role"] == "user"
    assert lines[:2] == [
        "You have to annotate banking-related queries with an appropriate intent.",
        "You must choose a single class in the following comma-separated list:",
    ]
    assert lines[3] == "World, Sports, Business, Sci/Tech"
    assert lines[5] == "You must reply only with the class name, nothing more. Here's some examples:"
    example = re.search(r"Text: (.*)\nLabel: (.*)", own.messages[1]["content"])
    assert lines[7] == f"({example[1]}, {example[2]})"
    assert len(lines[7:-2]) == settings.k
    query = own.messages[1]["content"].split("Text: ")[-1].removesuffix("\nLabel:")
    assert lines[-1] == f"The query sample is: {query}"
    files = [variant.file(("embeddings",), "prompts") for variant in (settings, published)]
    assert files[0] != files[1]
    assert published.outputs() != settings.outputs()


def test_examples_are_sorted_by_distance_and_then_by_row():
    train = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [1.0, 0.0]])
    rows = examples_in_order(train, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 3)
    assert rows.tolist() == [[1, 3, 2], [0, 2, 1]]


def test_proxies_equal_hand_computed_shares():
    """Proxies are scores of the retrieved examples, without a language model."""
    examples, train = torch.tensor([[0, 1, 2], [2, 3, 0], [1, 1, 0]]), np.array([0, 0, 1, 1])
    assert proxies(examples, train, np.array([0, 0, 1])) == {"contains-label": 2 / 3, "majority-accuracy": 1 / 3}


def test_answers_are_scored_by_exact_match():
    scores = score_answers({"a": " x\n", "b": "X", "c": "y", "z": "x"}, dict.fromkeys("abcd", "x"), ["x", "y"])
    assert scores == {"answer-accuracy": 1 / 3, "answered": 3, "no-label": 1}


def test_the_endpoint_gets_one_request_per_query(settings, stub, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with_endpoint = replace(settings, endpoint=stub.url, model="small", key_variable="MY_KEY")
    content = run(with_endpoint)
    assert content["results"]["embeddings"]["answer-accuracy"] == 1.0
    assert content["results"]["embeddings"]["answered"] == 6
    assert len(stub.requests) == 12  # six queries for two features
    assert {request["path"] for request in stub.requests} == {"/v1/chat/completions"}
    assert all(request["temperature"] == 0 and request["model"] == "small" for request in stub.requests)
    assert set(stub.keys) == {"Bearer secret"}
    run(with_endpoint)
    assert len(stub.requests) == 12  # all answers exist
    all_files = "".join(path.read_text() for path in settings.root[0].rglob("*.json*") if path.is_file())
    assert "secret" not in all_files


def test_answers_of_the_user_are_scored_and_an_incomplete_line_is_requested_again(settings, stub):
    run(settings)
    file = settings.file(("embeddings",), "answers")
    prompts = lines(settings.file(("embeddings",), "prompts"))
    wrong = json.dumps({"id": prompts[0]["id"], "answer": "no idea"}) + "\n"
    file.write_text(wrong + '{"id": "' + prompts[1]["id"])
    assert run(settings)["results"]["embeddings"] == pytest.approx(
        {"contains-label": 1.0, "majority-accuracy": 1.0, "answer-accuracy": 0.0, "answered": 1, "no-label": 1}
    )
    scores = run(replace(settings, endpoint=stub.url))["results"]["embeddings"]
    assert scores["answered"] == 6
    assert scores["answer-accuracy"] == pytest.approx(5 / 6)


def test_answers_of_another_model_or_to_other_prompts_do_not_count(settings, stub):
    """An earlier version scored the answers of the first model under the name of the second model."""
    first = replace(settings, endpoint=stub.url, model="small", features=("embeddings",))
    assert run(first)["results"]["embeddings"]["answered"] == 6
    for other in (replace(first, endpoint=None, model="org/large"), replace(first, endpoint=None, k=2)):
        assert "answered" not in run(other)["results"]["embeddings"]
    assert run(replace(first, endpoint=None, queries=2))["results"]["embeddings"]["answered"] == 2
    assert len(stub.requests) == 6
    file = first.file(("embeddings",), "answers")
    file.write_text(file.read_text().replace('"prompt": "', '"prompt": "of-other-features-'))
    assert "answered" not in run(replace(first, endpoint=None))["results"]["embeddings"]


def test_an_invalid_line_of_the_answers_is_named(settings):
    file = settings.file(("embeddings",), "answers")
    file.parent.mkdir(parents=True)
    file.write_text('{"id": "x"}\n')
    with pytest.raises(FungiError, match=r"answers.jsonl, line 1 is not an answer"):
        run(settings)


def test_requests_are_repeated_after_temporary_errors(stub):
    stub.failures = [503, 429]
    waits: list[float] = []
    messages = compose("q", [("a", "World")], ["World"], "t")
    assert ChatEndpoint(stub.url, "m", wait=waits.append).ask(messages).strip() == "World"
    assert waits == [2.0, 4.0]


def test_the_error_quotes_the_endpoint_and_answers_are_kept(settings, stub, capsys):
    stub.failures = []
    run(replace(settings, endpoint=stub.url, queries=2))
    stub.failures = [401]
    with pytest.raises(FungiError, match=r"did not answer \(401 .*Earlier answers are kept"):
        run(replace(settings, endpoint=stub.url))
    assert len(lines(settings.file(("embeddings",), "answers"))) == 2


@pytest.mark.parametrize("content", [None, ""])
def test_an_answer_without_text_is_empty_and_counts_as_no_label(content, settings, stub):
    stub.body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})
    scores = run(replace(settings, endpoint=stub.url, queries=2))["results"]["embeddings"]
    assert (scores["answered"], scores["no-label"], scores["answer-accuracy"]) == (2, 2, 0.0)
    assert [line["answer"] for line in lines(settings.file(("embeddings",), "answers"))] == ["", ""]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<!DOCTYPE html><html><body>Sign in</body></html>", r"returned a web page instead of .*--endpoint"),
        ('{"error": "no such model"}', r"returned other content instead of .*no such model"),
        ('{"choices": [{"message": {"content": 7}}]}', r"returned other content instead of"),
    ],
)
def test_an_answer_in_another_format_is_an_error_without_a_retry(body, message, stub):
    stub.body = body
    waits: list[float] = []
    with pytest.raises(FungiError, match=message):
        ChatEndpoint(stub.url, "m", wait=waits.append).ask(compose("q", [("a", "World")], ["World"], "t"))
    assert len(stub.requests) == 1
    assert not waits


def test_an_unreachable_endpoint_is_named():
    # No program listens on port 9.
    endpoint = ChatEndpoint("http://127.0.0.1:9/v1", "m", tries=2, wait=lambda seconds: None)
    with pytest.raises(FungiError, match=r"http://127.0.0.1:9/v1/chat/completions did not answer \(URLError"):
        endpoint.ask([])


def test_features_of_other_texts_are_refused(settings, tmp_path):
    write_data(tmp_path / "other", {"train": 6, "test": 2}, word="night")
    with pytest.raises(RefusedJoinError, match=r"was computed from other texts.*Extract the features again"):
        run(replace(settings, data_dir=tmp_path / "other"))


def test_features_with_the_published_labels_use_the_published_labels(tmp_path, monkeypatch):
    spec = DATASETS["ag-news"]

    def relabelled(data_dir: Path, split: str) -> Samples:
        samples = spec.open(data_dir, split)
        return replace(samples, targets=(samples.targets + 1) % 3)

    published = replace(spec, published_open=relabelled)
    for module in ("extraction.context", "in_context.retrieval"):
        monkeypatch.setattr(f"fungi.{module}.resolve_dataset", lambda *_: published)
    write_data(tmp_path / "data", {"train": 6, "test": 2})
    common = {"dataset": "ag-news", "backbone": "tiny-bert", "data_dir": tmp_path / "data", "device": "cpu"}
    extract(GradientSettings(**common, root=tmp_path, objective=("kl",), with_embeddings=True, profile="published"))
    retrieval = Retrieval(InContextSettings(**common, root=(tmp_path,), k=3))
    assert retrieval.train.targets.tolist() == relabelled(tmp_path / "data", "train").targets.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "--k has to be at least 1"),
        (["--endpoint", "localhost"], "'localhost' is not a URL. Example: http://localhost:8000/v1"),
        (["--dataset", "digits"], "dataset 'digits' has the modality vision"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(arguments, message, capsys):
    assert COMMANDS["in-context"].main(arguments) == 2
    error = capsys.readouterr().err
    *first_lines, last_line = error.strip().splitlines()
    assert message in last_line
    assert len(first_lines) <= 1  # the line that names the run
