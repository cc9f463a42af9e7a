"""The tables and figures of the paper: the commands behind each value, which are still to run, and our values."""
