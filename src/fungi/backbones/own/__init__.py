"""A user's own backbone, described on the command line: `--backbone NAME=KIND:PLACE`, one file per source."""
