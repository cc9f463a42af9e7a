"""Write tables and plots of result files next to the published numbers: python scripts/report.py --results features."""

from fungi.commands import COMMANDS

raise SystemExit(COMMANDS["report"].main())
