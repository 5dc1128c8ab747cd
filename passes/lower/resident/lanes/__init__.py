"""Elementwise operators and sums over features in a resident group, on the lane engines."""
