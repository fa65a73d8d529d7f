"""Benchmarks: one module each; `entitykit.benchmarks.table` lists and runs them."""
