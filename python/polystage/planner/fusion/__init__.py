"""Fusion across operators: what runs together, in which tiles, and what stays on chip."""
