"""Accuracy over cost of views at their own size: the study behind `--views native` and `--views budget`.

    python scripts/views_study.py run --dataset digits --backbone digits-vit
    python scripts/views_study.py run --dataset patterns --backbone digits-vit --rows 1024 512
    python scripts/views_study.py run --dataset patterns --backbone udi-micro \\
        --checkpoint demo-udi/pretraining/checkpoint.pth --rows 320 256
    python scripts/views_study.py run --dataset patterns --backbone efficientnet-lite0 --input-size 128 --rows 240 160
    python scripts/views_study.py run --dataset pydocs --backbone minilm
    python scripts/views_study.py show --output docs/images/views.png

`run` extracts each setting of views for each seed with `fungi extract-gradients` and scores the features; what is there
already is kept. `show` prints the tables of all that was run, as mean and deviation over seeds, and draws the picture.
"""

import argparse
from pathlib import Path

from study.extraction import run
from study.settings import SEEDS
from study.tables import show


def main() -> int:
    """Run or show."""
    options = _parser().parse_args()
    if options.action == "run":
        run(options)
    else:
        show(options.root, options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="views_study.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "show"))
    parser.add_argument("--root", type=Path, default=Path("views-study"))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--backbone", default="digits-vit")
    parser.add_argument("--checkpoint", type=Path, help="weights of the backbone, where it has none of its own")
    parser.add_argument(
        "--input-size", type=int, default=0, help="side of the input in pixels; 0 is the backbone's own"
    )
    parser.add_argument("--rows", type=int, nargs=2, default=(0, 0), help="first train and test rows; 0 takes all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=(), help="names of settings to run, as the tables print them")
    parser.add_argument("--set", nargs="*", default=(), help="further settings of objectives, for all settings")
    parser.add_argument("--output", type=Path, default=Path("views-study/views.png"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
