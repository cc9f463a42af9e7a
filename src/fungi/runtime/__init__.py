"""Device, dtype, seeds, logging, versions: what a run stands on."""
