"""The report page: its summary in words, its tables and figures, and its behaviour in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fungi.report import write_report
from fungi.report.cells import ResultRecord
from fungi.report.facts import Setting, as_facts
from fungi.report.figures import Series, draw_compared_dots, draw_curves, draw_dots, draw_sorted_differences
from fungi.report.page import Entry, sortable_table, text_entry
from fungi.report.summary import MAX_SINGLE_CASES, comparison_with_published, findings
from fungi.report.words import feature_in_words, protocol_in_words, task_in_words
from fungi.report.write_report import ReportSettings
from tests.evaluation.test_report import cells, content

CHROMIUM = shutil.which("chromium")
SCORES = {"embeddings": 0.33, "kl": 0.30, "embeddings+kl": 0.403, "embeddings+kl+dino": 0.35}


def with_deviation(scores: dict[str, float], std: float) -> dict:
    """Return the content of a result file of three runs. std: standard deviation of every accuracy over the runs."""
    result = content(scores)
    for entry in result["results"].values():
        entry["accuracy-std"] = std
    return result | {"runs": [{"results": result["results"], "warnings": []}] * 3}


def summary_text(*contents: dict) -> str:
    """Return the summary of a report of some results, one finding per line."""
    return "\n".join(f"{finding.title}: {finding.text}" for finding in findings(cells(*contents)))


def write_page(folder: Path, *contents: dict, **settings) -> str:
    """Write a report of some results as a page, and return its HTML."""
    for number, result in enumerate(contents):
        path = folder / "results" / "knn" / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    settings = {"formats": ("html",)} | settings
    (path,) = write_report.run(ReportSettings(results=(folder,), output=folder / "report", **settings))
    return path.read_text()


def test_the_summary_compares_the_best_and_the_largest_combination_with_the_embeddings() -> None:
    summary = summary_text(with_deviation(SCORES, 0.006))
    assert summary == (
        "Nearest neighbours, all train rows: cars, DeiT ViT-B/16: Best of 4: embeddings + KL, 40.3 % (± 0.6 over 3 "
        "runs); 7.3 points above the embeddings alone, 33.0 % (± 0.6 over 3 runs). All features together: 35.0 % (± "
        "0.6 over 3 runs), 2.0 points above the embeddings."
    )


def test_the_summary_names_losses_and_gains_within_the_spread() -> None:
    assert "The other feature does not beat the embeddings alone, 33.0 %" in summary_text(
        content({"embeddings": 0.33, "embeddings+kl": 0.30})
    )
    assert "1.0 points, at most the deviation over its runs, above" in summary_text(
        with_deviation({"embeddings": 0.33, "embeddings+kl": 0.34}, 0.02)
    )


def test_many_cases_are_summarised_with_the_worst_and_the_best_case() -> None:
    names = ("cars", "cub", "pets", "food101", "dtd")[: MAX_SINGLE_CASES + 1]
    gains = dict(zip(names, (-0.02, 0.04, 0.01, 0.03, 0.04), strict=True))
    summary = summary_text(
        *(content({"embeddings": 0.5, "embeddings+kl": 0.5 + gain}, dataset=name) for name, gain in gains.items())
    )
    assert "beat the embeddings alone in 4 of 5 cases (1 backbone, 5 datasets), by +2.0 points on average" in summary
    assert "from -2.0 (DeiT ViT-B/16, cars) to +4.0 (DeiT ViT-B/16, cub)" in summary


def test_the_summary_gives_the_differences_to_published_values() -> None:
    result = content({"embeddings": 0.330, "embeddings+kl+dino+simclr": 0.403})
    assert comparison_with_published(cells(result)) == (
        "2 values can be compared with the paper. Our values minus the published values are between +0.7 and +1.0 "
        "points; the median absolute difference is 0.9."
    )
    assert comparison_with_published(cells(content({"embeddings": 0.33}, k=5))) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (feature_in_words("embeddings+kl:values+simclr"), "embeddings + KL:values + SimCLR"),
        (feature_in_words("embeddings+mae+own"), "embeddings + MAE + own"),
        (task_in_words("linear", Setting("shots", 5, drawn=True)), "Linear probe, 5 train rows per class drawn"),
        (task_in_words("segmentation", Setting("patches", 1_024_000)), "Segmentation, bank of 1024000 patches"),
        (
            protocol_in_words(
                "clean", as_facts([("layer", "blocks.3.mlp"), ("simclr.stride_scale", 4), ("pca_dim", 96), ("k", 20)])
            ),
            "20 neighbours, PCA to at most 96 components, layer blocks.3.mlp, SimCLR stride scale 4, gradients as in "
            "the method (profile clean)",
        ),
        (protocol_in_words("unknown", ()), "files of unknown origin"),
    ],
)
def test_features_tasks_and_settings_have_names_in_words(text: str, expected: str) -> None:
    assert text == expected


def test_the_page_is_a_single_file_without_external_content(tmp_path: Path) -> None:
    needs_escapes = content(SCORES, dataset="<b>own&") | {"warnings": ["<i>odd</i>"]}
    text = write_page(tmp_path, content(SCORES), needs_escapes, expect=(tmp_path / "absent.json",))
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.html"]
    assert not re.search(r"https?:|<link|url\(|@import", text)
    assert "&lt;b&gt;own&amp;" in text
    assert "<b>own" not in text
    assert "&lt;i&gt;odd&lt;/i&gt;" in text
    assert "absent.json" in text
    assert text.count("data:image/png;base64,") >= 1


def test_results_of_choose_are_not_in_the_tables(tmp_path: Path) -> None:
    candidate = {"combination": "embeddings+kl", "dim": 64, "k": 3}
    choice = content({"embeddings": 0.5, "chosen": 0.6, "hindsight": 0.7}, choose=True)
    for name, entry in choice["results"].items():
        entry |= {"chosen": candidate} | ({} if name == "hindsight" else {"judged": 0.55})
    choice |= {"test_targets": [0, 1]}  # there are no predictions, and therefore no figures per class
    text = write_page(tmp_path, content(SCORES), choice)
    assert "The chosen candidate scores 60.0 %. The embeddings alone, with components and neighbours" in text
    assert "embeddings + KL, 64, 3" in text
    tables = text[text.index("<h2>Tables") :]
    assert "hindsight" not in tables


def test_bars_start_at_zero_and_dots_have_no_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    draw_dots(tmp_path / "a.png", "", {"embeddings": (70.0, None), "kl": (71.0, 0.4)}, "embeddings")
    draw_sorted_differences(tmp_path / "b.png", "", [Series("kl", [], [3.0, -1.0])], "points", ["cat", "dog"])
    (axes_with_dots,), (axes_with_bars,) = (figure.axes for figure in figures)
    monkeypatch.undo()
    assert not axes_with_dots.patches
    assert [(bar.get_x(), bar.get_width()) for bar in axes_with_bars.patches] == [(0, -1), (0, 3)]
    assert [label.get_text() for label in axes_with_bars.get_yticklabels()] == ["dog", "cat"]  # the best at the top
    for figure in figures:
        pyplot.close(figure)


def test_axes_and_error_bars_of_percentages_end_at_100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    series = Series("kl", [0, 1], [98.0, 100.0], [3.0, 7.0])
    draw_dots(tmp_path / "a.png", "", {"embeddings": (98.0, 3.0), "kl": (100.0, 7.0)}, "embeddings")
    draw_compared_dots(tmp_path / "b.png", "", ["first", "second"], [series])
    draw_curves(tmp_path / "c.png", "", [series], x_axis="block")
    monkeypatch.undo()
    (axes_of_dots,), (axes_of_groups,), (axes_of_curves,) = (figure.axes for figure in figures)
    for axes in (axes_of_dots, axes_of_groups):
        error_bars = [bar for container in axes.containers for bar in container.lines[2][0].get_segments()]
        assert axes.get_xlim()[1] == 100
        assert max(bar[:, 0].max() for bar in error_bars) == 100
        assert min(bar[:, 0].min() for bar in error_bars) == 100 - 7
    band = axes_of_curves.collections[0].get_paths()[0].vertices
    assert axes_of_curves.get_ylim()[1] == band[:, 1].max() == 100
    for figure in figures:
        pyplot.close(figure)


def test_the_first_two_colours_differ_in_lightness() -> None:
    """Compare relative luminance (WCAG). People who cannot distinguish the hues see this difference, too."""
    from fungi.report.figures import COLOURS

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    blue, vermillion = map(luminance, COLOURS[:2])
    assert vermillion > 1.3 * blue


def test_entries_have_numbers_as_sorting_keys() -> None:
    table = sortable_table(["Name", "Score"], [[Entry("a"), Entry("<b>9.5</b>", 9.5, "number")]])
    assert "<td class='number' data-value='9.5'><b>9.5</b></td>" in table
    assert "data-value='it&#x27;s'>it&#x27;s<" in sortable_table(["Name"], [[text_entry("it's")]])
    assert "<th class='number' scope='col'><button>Score</button></th>" in table


def run_in_browser(page: Path, script: str, folder: Path, width: int) -> list[Any]:
    """Open a page in a window of the given width, and return the result of a script in it. Check that the browser
    logs no error."""
    assert CHROMIUM
    script_element = f"<script>document.body.dataset.result = JSON.stringify((() => {{ {script} }})())</script>"
    page_with_script = folder / f"script-{width}.html"
    page_with_script.write_text(page.read_text() + script_element)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900"]
    process = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page_with_script.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in process.stderr, process.stderr
    (text,) = re.findall(r'data-result="([^"]*)"', process.stdout)
    values: list[Any] = json.loads(text.replace("&quot;", '"'))
    return values


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
def test_a_browser_shows_the_page_at_two_widths_and_sorts_the_table(tmp_path: Path) -> None:
    write_page(
        tmp_path,
        with_deviation(SCORES, 0.006),
        *(content(SCORES, dataset=name, k=5) for name in ("cars", "pets", "cub")),
    )
    page = tmp_path / "report" / "report.html"
    script = """
        const facts = [document.documentElement.scrollWidth, innerWidth, [...document.images].every(i => i.width)];
        const table = document.querySelector("table"), [features, score, gain] = table.querySelectorAll("button");
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
        const click = button => (button.click(), names());
        return [...facts, click(score), click(score), click(gain), click(gain), click(features),
                features.parentElement.getAttribute("aria-sort")];"""
    best_first = ["embeddings + KL", "embeddings + KL + DINO", "embeddings", "KL"]
    gains = ["embeddings + KL", "embeddings + KL + DINO", "KL"]
    for width in (1280, 500):
        page_width, window_width, has_all_images, *orders = run_in_browser(page, script, tmp_path, width)
        assert window_width == width
        assert page_width <= window_width, "the page is wider than its window"
        assert has_all_images
        assert orders == [
            best_first,
            best_first[::-1],
            [*gains, "embeddings"],  # embeddings have no gain, so they stay last
            [*gains[::-1], "embeddings"],
            ["embeddings", "embeddings + KL", "embeddings + KL + DINO", "KL"],
            "ascending",
        ]


def test_results_of_choose_are_recognised() -> None:
    assert ResultRecord(Path("x.json"), content(SCORES, choose=True)).uses_choose
    assert not ResultRecord(Path("x.json"), content(SCORES)).uses_choose


@pytest.mark.parametrize(("amount", "text"), [(1, "1 train row per class"), (5, "5 train rows per class")])
def test_the_text_of_a_single_shot_is_singular(amount, text):
    assert Setting("shots", amount).in_words() == text
