"""Device, precision, seeds, logging, atomic file writes and versions: functions that every command uses."""
