"""Search for the nearest keys of queries.

Exact search with torch defines the correct result. Other libraries return the same rows. Only approximate search (with
a tree) may miss rows, so its recall is reported.
"""

from typing import Literal

Metric = Literal["euclidean", "inner-product"]
Backend = Literal["exact", "faiss", "scann", "sklearn"]
"""Back-ends of a search. `exact` uses torch. The others are exhaustive too, unless they use a tree."""
BackendFlag = Literal["exact", "torch", "faiss", "scann", "sklearn"]
"""Values of --search: the back-ends, and `torch`, the earlier name of `exact`."""


def backend_of(flag: str) -> str:
    """Return the back-end for a value of --search."""
    return "exact" if flag == "torch" else flag
