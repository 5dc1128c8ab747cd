"""The tiles of a loop over chunks: which of them share a loop of the program, as the lowering has
it, and which are walked through."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from polystage.planner.fusion.decisions import Loop
from polystage.planner.fusion.latency.addresses import LoopText
from polystage.planner.fusion.latency.pieces import Form, Iterations
from polystage.planner.fusion.latency.record import Held, Record
from polystage.planner.fusion.latency.work import SUMS, ChunkWork, Operand
from polystage.planner.fusion.operators import Operator

SAMPLES = 12
"""Iterations of a loop that are walked through, where there are more."""


def _pattern(
    checks: Sequence[tuple[Form, int, int, int | None]], box: Iterations
) -> tuple[int, ...] | None:
    """Return what all checks say of a box, or None where one would have to cut it."""
    found: list[int] = []
    for form, least, greatest, extent in checks:
        low, high = form.ends(box)
        if extent is not None:
            if low // extent != high // extent:
                return None
            found.append(low // extent)
        elif low >= least and high <= greatest:
            found.append(1)
        elif high < least or low > greatest:
            found.append(0)
        else:
            return None
    return tuple(found)


@dataclass(frozen=True)
class State:
    """What is fixed at a point of a nest."""

    box: Iterations
    places: dict[Operand, Held]
    is_first: bool

    def at(self, dim: int, start: int, size: int, is_first: bool) -> "State":
        """Return the state in one tile of a dim."""
        starts = (*self.box.starts[:dim], start, *self.box.starts[dim + 1 :])
        sizes = (*self.box.sizes[:dim], size, *self.box.sizes[dim + 1 :])
        return State(Iterations(starts, sizes), self.places, self.is_first and is_first)

    def having(self, operand: Operand, held: Held) -> "State":
        """Return the state with one more operand on chip."""
        return replace(self, places={**self.places, operand: held})


class Tiles:
    """The tiles of the loops of one operator."""

    def __init__(self, record: Record, operator: Operator, work: ChunkWork) -> None:
        self.record = record
        self.operator = operator
        self.work = work

    def of(self, state: State, loop: Loop) -> Iterator[State]:
        """Yield the state in every tile of a loop; tiles that are written alike share a loop of the
        program. Of many alike only the first and the last are walked through."""
        start, extent = state.box.starts[loop.dim], state.box.sizes[loop.dim]
        is_reduction = loop.dim in self.operator.reductions
        checks = self._checks(state, loop.dim)
        parts = self.work.accesses
        is_even = all(form.is_even(loop.dim, loop.tile) for part in parts for form in part.axes)

        def tile(at: int) -> State:
            size = min(loop.tile, extent - at)
            return state.at(loop.dim, start + at, size, at == 0 or not is_reduction)

        def kind(found: State) -> tuple[object, ...]:
            opens = is_reduction and found.is_first
            return found.box.sizes[loop.dim], opens, _pattern(checks, found.box)

        tiles = [tile(at) for at in range(0, extent, loop.tile)]
        for (_, _, pattern), run in groupby(tiles, kind):
            same = list(run)
            if len(same) == 1 or pattern is None or not is_even:
                yield from same
                continue
            with self.record.instructions.loop(len(same)) as text:
                yield from self._sampled(same, text)

    def _sampled(self, tiles: Sequence[State], loop: LoopText) -> Iterator[State]:
        """Yield tiles that are alike: all, or of many enough to tell how long each takes."""
        record, instructions = self.record, self.record.instructions
        is_sampled = len(tiles) > SAMPLES + 2
        start, before = 0, record.counts
        for number, tile in enumerate(tiles):
            if is_sampled and SAMPLES <= number < len(tiles) - 1:
                continue
            instructions.text.begin(loop)
            yield tile
            if is_sampled and number == SAMPLES // 2 - 1:
                start, before = instructions.count, record.counts.copy()
            if is_sampled and number == SAMPLES - 1:
                walked, skipped = SAMPLES - SAMPLES // 2, len(tiles) - SAMPLES - 1
                record.skip(start, instructions.count, walked, skipped, before)

    def _checks(self, state: State, dim: int) -> list[tuple[Form, int, int, int | None]]:
        """Return what may change from tile to tile of a dim, as (index, least, greatest, extent):
        which array an operand shows, where windows wrap."""
        found: list[tuple[Form, int, int, int | None]] = []
        for part in self.work.accesses:
            for form, least, greatest in part.bounds:
                if form.depends_on(dim):
                    found.append((form, least, greatest, None))
            if part.access in state.places:
                extents = state.places[part.access].layout.extents
                for form, extent in zip(part.axes, extents, strict=False):
                    if extent is not None and form.depends_on(dim):
                        found.append((form, 0, 0, extent))
        if SUMS in state.places:
            extents = state.places[SUMS].layout.extents
            for parallel, extent in zip(self.operator.parallels, extents, strict=True):
                if extent is not None and parallel == dim:
                    found.append((Form(0, ((dim, 1),)), 0, 0, extent))
        return found
