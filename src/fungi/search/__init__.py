"""Keys, queries -> rows and scores of the nearest keys. Below the objectives, since a loss may need neighbours.

Exact search in tiles of torch is the truth; other libraries either give the same rows, or say their recall against it.
"""

from typing import Literal

Metric = Literal["euclidean", "inner-product"]
Backend = Literal["torch", "faiss", "scann", "sklearn"]
"""What computes an exhaustive search; all give the same rows."""
