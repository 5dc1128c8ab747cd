"""Placement: addresses for on-chip buffers."""
