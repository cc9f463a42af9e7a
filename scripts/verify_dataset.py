"""Verify a dataset on disk: the number of rows and classes in each split, and whether images can be read.

python scripts/verify_dataset.py --dataset cars --data-dir data [--every-item]
"""

import sys

from fungi.data.preparation import VerifySettings, verify
from fungi.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(VerifySettings, verify, program="verify_dataset.py", description=__doc__))
