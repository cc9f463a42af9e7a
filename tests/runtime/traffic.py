"""Count the memory traffic of a computation from the sizes of its tensors. Fake tensors of a GPU are enough."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(TorchDispatchMode):
    """A counter of the bytes that operations read and write. Each operation counts separately, as without a cache.

    bytes: total of all operations. conversions: bytes that conversions to float32 write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.conversions = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = function(*args, **kwargs)
        read = _tensors((args, {name: value for name, value in kwargs.items() if name != "out"}))
        written = _tensors(outputs)
        storages = {tensor.untyped_storage()._cdata for tensor in read}
        is_view = not function._schema.is_mutable and any(t.untyped_storage()._cdata in storages for t in written)
        if written and not is_view and not function.name().startswith(("aten::empty", "aten::new_empty")):
            self.bytes += sum(tensor.nbytes for tensor in [*read, *written])
        if function.name() == "aten::_to_copy" and written[0].dtype == torch.float32:
            self.conversions += written[0].nbytes
        return outputs


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
