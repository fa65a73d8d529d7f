"""Corpora: files and data sets in the field's formats, read as spaCy documents with gold annotations."""
