"""Print the progress of the grid, and the commands for missing elements: python scripts/status.py --root features."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["status"].main())
