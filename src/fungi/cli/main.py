"""`fungi COMMAND ...`: the same commands as the files at the top level, and a few more."""

import importlib
import sys
from collections.abc import Sequence

from fungi import __version__

COMMANDS = {
    "demo": ("fungi.demos.vision", "the main job on embedded data, from images to the kNN table"),
    "demo-text": ("fungi.demos.text", "the same for texts that come with Python"),
    "demo-audio": ("fungi.demos.audio", "the same for synthetic sounds"),
    "list": ("fungi.cli.enumerate", "the names of datasets, backbones, objectives"),
    "projection": ("fungi.extraction.generate_projection_matrix", "write a random projection matrix"),
    "extract": ("fungi.extraction.extract", "write embeddings"),
    "extract-gradients": ("fungi.extraction.extract_gradients", "write projected gradients"),
    "merge": ("fungi.extraction.merge", "assemble the blocks of all shards into feature files"),
    "knn": ("fungi.scoring.knn_concat", "kNN over every combination of features"),
    "linear": ("fungi.scoring.train_linear_concat_grads", "logistic regression over nested combinations of features"),
    "retrieval": ("fungi.scoring.retrieval_eval", "landmark retrieval over every combination of features"),
    "cluster": ("fungi.scoring.cluster", "k-means with Hungarian matching over nested combinations of features"),
    "analyse": ("fungi.scoring.analyse", "likeness of features, accuracy by shots and by layer"),
    "in-context": ("fungi.in_context.in_context", "retrieve examples for a language model, ask it, score its answers"),
    "ablate": ("fungi.ablations.ablate", "the paper's ablations: extraction, kNN and table"),
    "report": ("fungi.cli.report", "tables and plots from result files, beside the published numbers"),
    "submit": ("fungi.grid.submit", "submit the grid to SLURM"),
    "status": ("fungi.grid.status", "how far the grid is, and what to submit again"),
    "prefetch": ("fungi.grid.prefetch", "fetch and verify weights and datasets of the grid, for offline nodes"),
    "run-elements": ("fungi.grid.run_elements", "what job scripts call: a command for this task's part of the grid"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Dispatch to the command named first."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if given[0] in ("-V", "--version"):
        print(f"fungi {__version__}")
        return 0
    if given[0] not in COMMANDS:
        print(f"fungi: unknown command {given[0]!r}.\n{_usage()}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[given[0]][0])
    return int(module.main(given[1:]))


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "usage: fungi COMMAND [--help] ... | fungi --version\n\n" + "\n".join(lines)
