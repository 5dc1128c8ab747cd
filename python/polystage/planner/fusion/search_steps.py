"""What the steps of a group need and move, apart from which of its arrays are where.

One schedule with a window for every array answers for every choice of places: a resident array or a
streamed one leaves its window's bytes and traffic out, and nothing else changes.
"""

from dataclasses import dataclass

from polystage.planner.fusion.schedule import GroupSchedule, Purpose


@dataclass(frozen=True)
class Window:
    """One array of a group."""

    bytes: int
    operators: range
    """During which of the group's operators it is live."""
    traffic: int
    """What it loads and stores."""


@dataclass(frozen=True)
class Steps:
    """The steps of a group whose arrays are all windows."""

    boxes: tuple[tuple[int, ...], ...]
    """Per operator the most that it computes in one step, along every dim."""
    times: tuple[int, ...]
    """Per operator the steps in which it computes something."""
    windows: tuple[Window, ...]
    """One per array, in the order of `names`."""
    sums: int
    """What the sink accumulates over all steps, where they run over a dim that it reduces."""

    @classmethod
    def of(cls, steps: GroupSchedule, names: tuple[str, ...], sums_up: bool) -> "Steps":
        """Read the schedule of a group that touches the arrays `names`.

        `sums_up` says that its steps run over a dim that the sink reduces.
        """
        sizes = [computes[:, :, 1] - computes[:, :, 0] for computes in steps.computes]
        boxes = tuple(tuple(int(size) for size in each.max(axis=0)) for each in sizes)
        times = tuple(int((each.prod(axis=1) > 0).sum()) for each in sizes)
        windows = tuple(_window(steps, name) for name in names)
        return cls(boxes, times, windows, _sums(steps) if sums_up else 0)


def _window(steps: GroupSchedule, name: str) -> Window:
    traffic = steps.read_bytes.get(name, 0) + steps.write_bytes.get(name, 0)
    for buffer in steps.buffers:
        if buffer.purpose is Purpose.ARRAY and buffer.array == name:
            first, last = buffer.operators
            return Window(buffer.bytes, range(first, last + 1), traffic)
    return Window(0, range(0), traffic)


def _sums(steps: GroupSchedule) -> int:
    last = len(steps.computes) - 1
    return sum(
        buffer.bytes
        for buffer in steps.buffers
        if buffer.purpose is Purpose.ACCUMULATOR and buffer.operators[1] == last
    )
