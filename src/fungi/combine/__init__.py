"""Chosen feature blocks, each L2-normalised, `[n f]`, reduced by PCA to `[n r]`; fitted on train rows only."""
