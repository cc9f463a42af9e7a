"""How far the grid is, and what to submit again: python scripts/status.py --root features."""

from fungi.grid.status import main

raise SystemExit(main())
