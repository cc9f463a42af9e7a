"""Fixtures of the tests of stages, for tests of the store that run stages."""

from tests.stages.conftest import embeddings, gradients, pictures

__all__ = ["embeddings", "gradients", "pictures"]
