"""Prepare ADE20K scene parsing (150 classes, 20,210 + 2,000 images, 1 GB): unpack, verify.

    wget -P downloads http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip
    python scripts/prepare_ade20k.py --archives downloads --data-dir data

Makes data/ade20k/{images,annotations}/{training,validation}. A folder that is there already is left as it is.
"""

import sys

from fungi.data.preparation import PrepareSettings, prepare
from fungi.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(
        run_command(
            PrepareSettings,
            lambda settings: prepare(settings, "ade20k"),
            program="prepare_ade20k.py",
            description=__doc__,
        )
    )
