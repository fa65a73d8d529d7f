"""The transformer encoder on packed input."""
