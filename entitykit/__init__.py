"""Entity-centric information extraction for spaCy: one encoder pass, one state per mention, small heads for every task."""

__version__ = "0.1.0"
