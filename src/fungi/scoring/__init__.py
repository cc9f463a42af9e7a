"""Scoring: from feature files to the scores of every combination."""
