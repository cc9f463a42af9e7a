"""Concatenate L2-normalised features to `[n f]`, and reduce them to `[n r]` by PCA, which is fitted on train rows."""
