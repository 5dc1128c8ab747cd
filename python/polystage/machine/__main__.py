"""Print docs/targets.md."""

from polystage.machine.reference import targets_page

print(targets_page(), end="")
