"""Frozen encoders that turn views into embeddings: one file per family, and the registry of named backbones."""
