"""Frozen encoders: views -> embeddings, one file per family, and the enumeration of named backbones."""
