"""Concatenate L2-normalised features to `[n f]`, and reduce them by PCA to `[n r]`, fitted on train rows only."""
