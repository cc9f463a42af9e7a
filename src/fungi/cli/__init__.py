"""`fungi COMMAND`: dispatch by the table of commands, and `fungi list`."""
