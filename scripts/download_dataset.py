"""Download a dataset whose archives need no account, and verify it.

    python scripts/download_dataset.py --dataset cifar10 --data-dir data

Extraction never downloads anything: run this on a machine with a network first. For the other datasets, download the
archives yourself and run prepare.py.
"""

import sys

from fungi.data.preparation import DownloadSettings, download
from fungi.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(DownloadSettings, download, program="download_dataset.py", description=__doc__))
