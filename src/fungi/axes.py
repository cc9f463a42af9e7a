"""Legend of axis letters. A letter has the same meaning in every package.

| letter | axis | | letter | axis |
|---|---|---|---|---|
| n | rows of a split | | p | projected gradient |
| b | samples of a batch | | f | combined features |
| v | views of a sample | | r | features reduced by PCA |
| t | tokens of a view | | c | classes (in images: channels) |
| i, o | input, output of a layer | | k | neighbours |
| d | embedding | | h, w | height, width |
| l | latent (output of a head) | | q | queries |
| m | views of all samples, b x v | | s | positions of a layer, v x t |
| g | entries of a gradient, o x (i + 1) | | | |

Signatures of public functions state the axes, `Float[Tensor, "b p"]`, and the tests check them at run time.
If a tensor has a single axis, its name starts with a space: `Float[Tensor, " b"]`.
"""
