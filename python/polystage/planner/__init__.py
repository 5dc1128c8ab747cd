"""Decisions about whole programs: facts of the polyhedral model and a target in, choices out."""
