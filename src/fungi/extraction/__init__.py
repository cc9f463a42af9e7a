"""Extraction: from settings to feature files, block by block."""
