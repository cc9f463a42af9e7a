"""Arrays in, numbers out: an evaluator never sees a model, a dataset name or a path."""
