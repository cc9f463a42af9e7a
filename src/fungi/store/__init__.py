"""Store features: blocks `[b p]`, the files `[n p]` that are assembled from them, their provenance, and checked reads."""
