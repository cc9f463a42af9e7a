"""Backbones of the user: `--backbone NAME=KIND:PLACE`. `forms.py` parses this text; other modules build backbones."""
