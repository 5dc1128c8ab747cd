"""Imported model to clean linalg on tensors to `buffers` form."""
