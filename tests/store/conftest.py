"""The stages' pictures, for tests that run stages on disks in trouble."""

from tests.stages.conftest import embeddings, gradients, pictures

__all__ = ["embeddings", "gradients", "pictures"]
