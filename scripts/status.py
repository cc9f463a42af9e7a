"""Print the progress of the grid, and the commands that submit the rest: python scripts/status.py --root features."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["status"].main())
