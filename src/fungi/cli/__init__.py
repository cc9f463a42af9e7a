"""The command line: `fungi COMMAND` runs a command of the table, and `fungi list` prints names."""
