"""How far the grid is, and what to submit again: python scripts/status.py --root features."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["status"].main())
