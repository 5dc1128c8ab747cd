"""Contractions on the tensor engine: recognise, plan, load, multiply, store."""
