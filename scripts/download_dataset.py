"""Download a dataset that a program can fetch, and verify it.

    python scripts/download_dataset.py --dataset cifar10 --data-dir data

Extraction never downloads: run this on a machine with a network first. The archives of other datasets need
an account, or a file from somewhere else: see prepare.py.
"""

import sys

from fungi.data.preparation import DownloadSettings, download
from fungi.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(DownloadSettings, download, program="download_dataset.py", description=__doc__))
