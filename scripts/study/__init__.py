"""The parts of `scripts/views_study.py`."""
