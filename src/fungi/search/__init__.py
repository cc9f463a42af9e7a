"""Keys, queries -> rows and scores of the nearest keys. Below the objectives, since a loss may need neighbours.

Exact search in tiles of torch is the truth; other libraries either give the same rows, or say their recall against it.
"""

from typing import Literal

Metric = Literal["euclidean", "inner-product"]
Backend = Literal["exact", "faiss", "scann", "sklearn"]
"""What computes a search: `exact` is torch's; the others are exhaustive too, unless a tree is passed to them."""
BackendFlag = Literal["exact", "torch", "faiss", "scann", "sklearn"]
"""Values of --search: the back-ends, and `torch`, the earlier name of `exact`."""


def backend_of(flag: str) -> str:
    """Return the back-end that a value of --search means."""
    return "exact" if flag == "torch" else flag
