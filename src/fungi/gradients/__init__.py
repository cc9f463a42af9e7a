"""Per-sample gradients of chosen layers, and their random projection."""
