"""The command line: one file per command; settings, validation, dispatch."""
