"""Attention in a resident group: read from its operations, cut in tiles, written head by head."""
