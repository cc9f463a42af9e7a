"""FUNGI: Features from UNsupervised GradIents.

One package per step of the method; imports only point rightwards:

    data -> views -> backbones -> objectives -> gradients -> store -> combine -> evaluators -> report -> cli

Common ground for all of them: `axes` (the legend of axis letters), `errors`, `registry`, `settings`, `runtime`.
"""

__version__ = "0.2.0"
