"""spaCy components: Docs in, Docs out, no mathematics."""
