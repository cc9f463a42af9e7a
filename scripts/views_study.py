"""Compare accuracy and cost of views of different sizes: the study behind `--views native` and `--views budget`.

    python scripts/views_study.py run --dataset digits --backbone digits-vit
    python scripts/views_study.py run --dataset patterns --backbone digits-vit --rows 1024 512
    python scripts/views_study.py run --dataset patterns --backbone udi-micro \\
        --checkpoint demo-udi/pretraining/checkpoint.pth --rows 320 256
    python scripts/views_study.py run --dataset patterns --backbone efficientnet-lite0 --input-size 128 --rows 240 160
    python scripts/views_study.py run --dataset pydocs --backbone minilm
    python scripts/views_study.py show --output docs/images/views.png

`run` extracts each setting of views for each seed with `fungi extract-gradients` and scores the features. It reuses
existing files. `show` prints tables of all scores (mean and standard deviation over seeds) and draws the figure.
"""

import argparse
import sys
from pathlib import Path

from fungi.errors import FungiError
from study.extraction import run
from study.settings import SEEDS
from study.tables import show


def main() -> int:
    """Run the study, or show its results."""
    options = _parser().parse_args()
    try:
        if options.action == "run":
            run(options)
        else:
            show(options.root, options.output)
    except FungiError as error:
        print(f"views_study.py: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="views_study.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "show"))
    parser.add_argument("--root", type=Path, default=Path("views-study"))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--backbone", default="digits-vit")
    parser.add_argument("--checkpoint", type=Path, help="weights of the backbone, if the project has none for it")
    parser.add_argument(
        "--input-size", type=int, default=0, help="side of the input in pixels; 0 is the usual side of the backbone"
    )
    parser.add_argument(
        "--rows", type=int, nargs=2, default=(0, 0), help="numbers of train and test rows; default: all"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=(), help="names of settings to run, as in the tables")
    parser.add_argument("--set", nargs="*", default=(), help="options of objectives that hold in all settings")
    parser.add_argument("--output", type=Path, default=Path("views-study/views.png"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
