"""Submit the grid to SLURM: python scripts/submit.py --dry-run."""

from fungi.grid.submit import main

raise SystemExit(main())
