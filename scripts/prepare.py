"""Unpack datasets whose archives you have to download yourself, arrange their files, and verify them.

    python scripts/prepare.py --dataset pets cub-200 --archives downloads --data-dir data

Existing files do not change. The archives come from:

{sources}
"""

import sys

from fungi.data.preparation import PrepareSettings, prepare, sources
from fungi.runtime.command import run_command

if __name__ == "__main__":
    description = (__doc__ or "").format(sources=sources())
    sys.exit(run_command(PrepareSettings, prepare, program="prepare.py", description=description))
