"""Reproduce the tables and figures of the paper: find the commands of each value, run them and compare the values."""
