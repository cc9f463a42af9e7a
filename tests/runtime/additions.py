"""A check that no floats are added in an order that a GPU chooses."""

from torch.utils._python_dispatch import TorchDispatchMode


class NoAtomicAdditions(TorchDispatchMode):
    """A mode that fails if floats are added by `index_add_`, `scatter_add_` or similar functions.

    A GPU adds the numbers of such a call in any order, so the rounding of float sums differs from run to run. Sums of
    integers do not depend on the order.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        is_atomic = name.startswith(("aten::index_add", "aten::scatter_add", "aten::scatter_reduce"))
        is_atomic |= name.startswith("aten::index_put") and bool((*args, False, False)[3])  # the argument `accumulate`
        assert not is_atomic or not args[0].is_floating_point(), name
        return function(*args, **(kwargs or {}))
