"""The paper's tables and figures: what has to be run for each value, what is there, what it came to."""
