"""Chosen feature blocks -> one matrix `[n f]` -> `[n r]`: normalisation, combinations, few-shot rows, PCA (fitted on train only)."""
