"""Verify a dataset on disk: rows and classes of each split as published, images readable.

python scripts/verify_dataset.py --dataset cars --data-dir data [--every-item]
"""

import sys

from fungi.data.preparation import VerifySettings, verify
from fungi.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(VerifySettings, verify, program="verify_dataset.py", description=__doc__))
