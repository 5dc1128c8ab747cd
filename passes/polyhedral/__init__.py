"""Passes on whole programs in the polyhedral model."""
