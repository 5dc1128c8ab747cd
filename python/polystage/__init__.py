"""Polystage: a polyhedral compiler and simulator for scratchpad accelerators."""
