"""Tables and plots from result files, beside the published numbers: python scripts/report.py --results features."""

from fungi.cli.report import main

raise SystemExit(main())
