"""torch modules: tensors in, named tuples out."""
