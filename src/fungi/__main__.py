"""`python -m fungi COMMAND ...`: run the command line without the installed script `fungi`."""

from fungi.cli.main import main

raise SystemExit(main())
