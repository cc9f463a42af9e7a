"""Store features: write blocks `[b p]`, assemble them into files `[n p]` with provenance, and read these files."""
