"""`scripts/average_folds.py` averages results over the folds of ESC-50."""

import importlib.util
import json
from pathlib import Path

import pytest

from fungi.store.layout import Layout

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "average_folds.py"


@pytest.fixture
def average():
    """Return the main function of the script."""
    spec = importlib.util.spec_from_file_location("average_folds", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def write_result(root: Path, dataset: str, accuracy: float, k: int = 20) -> None:
    """Write the kNN result of a fold. dataset: name of the fold."""
    path = Layout(root).results("knn", dataset, "patch-ssast")
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {"embeddings": {"accuracy": accuracy, "predictions": [1]}}
    settings = {"dataset": dataset, "backbone": "patch-ssast", "pca_dim": 512, "k": k}
    content = {"task": "knn", "results": scores, "settings": settings, "provenance": {"features": []}}
    path.write_text(json.dumps(content))


def test_the_table_shows_mean_and_deviation_of_five_folds(average, tmp_path, capsys):
    for fold, accuracy in enumerate((0.40, 0.42, 0.44, 0.46, 0.48), start=1):
        write_result(tmp_path, "esc-50" if fold == 1 else f"esc-50-fold{fold}", accuracy)
    assert average(["--root", str(tmp_path)]) == 0
    assert "44.0 ± 2.8" in capsys.readouterr().out  # 2.8 = sqrt((16 + 4 + 0 + 4 + 16) / 5)


def test_folds_with_different_protocols_are_not_averaged(average, tmp_path, capsys):
    for fold in range(1, 6):
        write_result(tmp_path, "esc-50" if fold == 1 else f"esc-50-fold{fold}", 0.4, k=5 if fold == 4 else 20)
    assert average(["--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "esc-50-fold4" in error
    assert "were computed in different ways (knn, full, profile unknown, k 20, PCA 512; knn, full" in error


def test_an_error_names_missing_folds(average, tmp_path, capsys):
    write_result(tmp_path, "esc-50", 0.4)
    assert average(["--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "esc-50-fold2" in error
    assert "esc-50-fold5" in error
    assert "Evaluate these folds first" in error
