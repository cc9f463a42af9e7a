"""`python -m fungi COMMAND ...`: the command line where the `fungi` script is not installed."""

from fungi.cli.main import main

raise SystemExit(main())
