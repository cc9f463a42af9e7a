"""The process group of a training run that several processes share."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from fungi.pretraining.processes import process_group


class Group:
    """Stand-in for a process group."""


def test_the_process_group_outlives_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has the last reference to the group of gloo can hang when it is freed."""
    namespace = SimpleNamespace(WORLD=Group())
    monkeypatch.setattr(torch.distributed, "group", namespace)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: setattr(namespace, "WORLD", None))
    monkeypatch.setenv("WORLD_SIZE", "2")
    group = weakref.ref(namespace.WORLD)
    with process_group("cpu") as (world, _):
        assert (world.rank, world.size) == (1, 2)
    gc.collect()
    assert namespace.WORLD is None
    assert group() is not None
