"""Results: the settings that determine a number, result files, and the published numbers."""
