"""Tables, figures and pages from result files, compared with the published values."""
