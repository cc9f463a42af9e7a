"""Measure speed and memory of the program: python scripts/benchmark.py evaluation|extraction|... [--help].

Each benchmark is a module of `scripts/benchmarks` with a `main(arguments) -> exit status`.
"""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "benchmarks"


def main(arguments: list[str]) -> int:
    """Run the benchmark whose name is the first argument, and return its exit status."""
    names = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    if not arguments or arguments[0] not in names:
        print(f"usage: python scripts/benchmark.py {'|'.join(names)} [--help] ...", file=sys.stderr)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    sys.path.insert(0, str(FOLDER.parent))
    module = importlib.import_module(f"benchmarks.{arguments[0]}")
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
