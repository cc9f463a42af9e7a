"""Results: the settings that decide a number, its result file, and the published number beside it."""
