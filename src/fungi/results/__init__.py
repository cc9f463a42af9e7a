"""Results: the settings that decide a number, result files, and the published numbers."""
