"""Fixtures of the tests of stages, for tests that run stages on full disks and after changes of the code."""

from tests.stages.conftest import embeddings, gradients, pictures

__all__ = ["embeddings", "gradients", "pictures"]
