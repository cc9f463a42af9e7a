"""Submit the grid to SLURM: python scripts/submit.py --dry-run."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["submit"].main())
