"""The notebook runs from top to bottom, and its outputs agree with its text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq")
def test_the_quickstart_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (requirements-dev.txt)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (requirements-dev.txt)")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    stored = nbformat.read(NOTEBOOK, as_version=4)
    assert "torch.Size([300, 384])" in texts_of(notebook)
    assert pictures_of(notebook) == pictures_of(stored) == 1
    scores, shown = scores_of(notebook), scores_of(stored)
    assert scores.keys() == shown.keys()
    assert all(abs(scores[name] - shown[name]) <= 3 for name in scores), (
        scores,
        shown,
    )  # one percentage point is one picture
    assert shown["embeddings + KL + DINO + SimCLR"] < max(shown.values()), (
        "the text says that all features together are not always best"
    )


def test_the_notebook_is_stored_with_outputs_and_without_machine_paths() -> None:
    text = NOTEBOOK.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not re.search(r"/(home|root|work|tmp)/|stderr|Traceback", text)
    assert "SimCLRConfig" in text


def texts_of(notebook: Any) -> str:
    """Return all outputs of the cells that are text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures_of(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def scores_of(notebook: Any) -> dict[str, int]:
    """Return the printed accuracy in percent by the name of the features."""
    return {name.strip(): int(score) for name, score in re.findall(r"^(embed.*?) +(\d+) %$", texts_of(notebook), re.M)}
