"""Carries out a plan of fused groups on a target with one flat scratchpad."""
