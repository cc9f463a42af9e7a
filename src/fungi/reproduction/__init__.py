"""Reproduce the tables and figures of the paper: the commands for each value, the missing commands, our values."""
