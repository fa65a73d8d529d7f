"""Benchmarks: each a command that measures what the documentation claims."""
