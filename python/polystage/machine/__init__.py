"""The machine: its description (`Target`), the time of one instruction (`cost`), its energy (`energy`)."""

from polystage.machine.target import Target, find_field, parse_settings

__all__ = ["Target", "find_field", "parse_settings"]
