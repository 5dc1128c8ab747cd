"""Elimination of load/store pairs, decided on an abstract program before any IR changes."""
