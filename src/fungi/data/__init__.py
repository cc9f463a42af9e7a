"""Datasets of raw samples, one file per dataset. This package does not resize, crop or normalise items."""
