"""Decoders: numpy scores in, spans out; one file per task."""
