"""Unpack datasets whose archives a person has to download, arrange their files, and verify them.

    python scripts/prepare.py --dataset pets cub-200 --archives downloads --data-dir data

What is there already is left as it is. The archives come from:

{sources}
"""

import sys

from fungi.data.preparation import PrepareSettings, prepare, sources
from fungi.runtime.command import run_command

if __name__ == "__main__":
    description = (__doc__ or "").format(sources=sources())
    sys.exit(run_command(PrepareSettings, prepare, program="prepare.py", description=description))
