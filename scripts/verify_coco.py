"""Verify COCO on disk: the number of images and classes in each split, and whether images can be read.

python scripts/verify_coco.py --coco data/coco [--every-item]
"""

import sys

from fungi.pretraining.dense.coco_verification import VerifyCocoSettings, verify
from fungi.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(VerifyCocoSettings, verify, program="verify_coco.py", description=__doc__))
