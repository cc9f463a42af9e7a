"""The paper's ablations: extraction, kNN and table."""
