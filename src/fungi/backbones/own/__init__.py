"""Backbones of the user, described on the command line: `--backbone NAME=KIND:PLACE`. Each source has its file."""
