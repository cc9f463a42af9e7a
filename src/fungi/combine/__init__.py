"""Chosen feature blocks -> `[n f]` -> `[n r]`: combinations, few-shot rows, PCA (fitted on train only)."""
