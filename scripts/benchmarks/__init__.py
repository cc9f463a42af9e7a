"""Benchmarks, one per module; `scripts/benchmark.py` runs them by name."""
