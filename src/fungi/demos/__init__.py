"""The main jobs on embedded data."""
