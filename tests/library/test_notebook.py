"""The notebook runs from top to bottom, and shows what it says."""

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
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert "torch.Size([300, 384])" in texts_of(notebook)
    assert pictures_of(notebook) == pictures_of(kept) == 1
    found, shown = scores_of(notebook), scores_of(kept)
    assert found.keys() == shown.keys()
    assert all(abs(found[name] - shown[name]) <= 3 for name in found), (found, shown)  # a point is one picture
    assert shown["embeddings + KL + DINO + SimCLR"] < max(shown.values()), (
        "all together are best: the text says not always"
    )


def test_the_notebook_is_kept_with_what_it_gives_and_nothing_of_where_it_ran() -> None:
    text = NOTEBOOK.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not re.search(r"/(home|root|work|tmp)/|stderr|Traceback", text)
    assert "SimCLRConfig" in text


def texts_of(notebook: Any) -> str:
    """All that the cells print or show as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures_of(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def scores_of(notebook: Any) -> dict[str, int]:
    """Features -> accuracy in percent, as printed."""
    return {name.strip(): int(score) for name, score in re.findall(r"^(embed.*?) +(\d+) %$", texts_of(notebook), re.M)}
