"""The grid of backbones and datasets on a cluster: declaration, elements, arrays, submission, progress."""
