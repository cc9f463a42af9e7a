"""Backbones of the user, described on the command line: `--backbone NAME=KIND:PLACE`. Each KIND has a module here."""
