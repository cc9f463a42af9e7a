"""A watch over additions whose order a GPU chooses."""

from torch.utils._python_dispatch import TorchDispatchMode


class NoAtomicAdditions(TorchDispatchMode):
    """Fails where floats are added by `index_add_`, `scatter_add_` and the like: such sums differ from run to run on a
    GPU, which adds the numbers of one call in an order of its own. Sums of integers are the same in every order.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        added = name.startswith(("aten::index_add", "aten::scatter_add", "aten::scatter_reduce"))
        added |= name.startswith("aten::index_put") and bool((*args, False, False)[3])
        assert not added or not args[0].is_floating_point(), name
        return function(*args, **(kwargs or {}))
