"""Attention as one operator: found among contractions and reductions, with its bound."""
