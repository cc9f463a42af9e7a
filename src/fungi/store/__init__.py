"""Blocks `[b p]` -> arrays `[n p]` on disk, with their birth record; and reading them back, refusing bad joins."""
