"""Retrieval-based in-context classification with a language model."""
