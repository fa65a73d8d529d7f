"""Metrics and spaCy scorers; one file per task."""
