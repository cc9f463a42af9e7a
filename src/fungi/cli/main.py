"""`fungi COMMAND ...`: the same commands as the files at the top level, and a few more."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": ("fungi.cli.demo", "the main job on embedded data, from images to the kNN table"),
    "list": ("fungi.cli.enumerate", "the names of datasets, backbones, objectives"),
    "projection": ("fungi.cli.generate_projection_matrix", "write a random projection matrix"),
    "extract": ("fungi.cli.extract", "write embeddings"),
    "extract-gradients": ("fungi.cli.extract_gradients", "write projected gradients"),
    "merge": ("fungi.cli.merge", "assemble the blocks of all shards into feature files"),
    "knn": ("fungi.cli.knn_concat", "kNN over every combination of features"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Dispatch to the command named first."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if given[0] not in COMMANDS:
        print(f"fungi: unknown command {given[0]!r}.\n{_usage()}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[given[0]][0])
    return int(module.main(given[1:]))


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "usage: fungi COMMAND [--help] ...\n\n" + "\n".join(lines)
