"""Blocks `[b p]` -> arrays `[n p]` on disk, with their provenance; and reading them back, refusing bad joins."""
