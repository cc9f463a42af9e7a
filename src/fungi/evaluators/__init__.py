"""Arrays in, numbers out: no model, no dataset name, no path."""
