"""Readable, unique identifiers for arrays, statements and loop dimensions."""

import re
from collections.abc import Sequence

from polystage.mlir import ir
from polystage.polyhedral.expressions import linear_terms, used_dims
from polystage.polyhedral.model import Kind

LOOP_NAMES = ("i", "j", "k", "l", "m", "n")


class Names:
    """Hands out identifiers, each once."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """Return `wanted` as an identifier, with a number where it is taken."""
        base = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "value"
        if base[0].isdigit():
            base = f"_{base}"
        name = base
        while name in self._taken:
            self._taken[base] += 1
            name = f"{base}_{self._taken[base]}"
        self._taken[name] = 0
        return name


def location_name(location: ir.Location) -> str:
    """Return the name of a `NameLoc`, also inside a fused or call-site location, or nothing."""
    if isinstance(location, ir.NameLoc):
        return location.name_str
    if isinstance(location, ir.FusedLoc):
        return next((name for name in map(location_name, location.locations) if name), "")
    if isinstance(location, ir.CallSiteLoc):
        return location_name(location.callee)
    return ""


def loop_names(depth: int) -> tuple[str, ...]:
    """Return names for `depth` nested loops: i, j, k, ..."""
    return tuple(LOOP_NAMES[i] if i < len(LOOP_NAMES) else f"i{i}" for i in range(depth))


def dimension_names(
    kind: Kind,
    iterators: Sequence[str],
    reads: Sequence[Sequence[ir.AffineExpr]],
    write: Sequence[ir.AffineExpr],
) -> tuple[str, ...]:
    """Name the dims of a linalg op by what they do: `n, m, h, w, c, kh, kw` in a convolution.

    Windows `stride * d + dilation * r` in a read are spatial (`h`, `w`) and kernel (`kh`, `kw`)
    dims. Of a contraction, `m` and `n` are in one operand each, `k` (`c` beside windows) is
    summed, `b` or `g` is in all.
    """
    names: dict[int, str] = {}
    if kind in (Kind.CONTRACTION, Kind.REDUCTION):
        _name_windows(names, iterators, reads)
    if kind == Kind.CONTRACTION and len(reads) >= 2:
        _name_contraction(names, iterators, reads, bool(names))
    return tuple(names.get(dim, f"d{dim}") for dim in range(len(iterators)))


def _name_windows(
    names: dict[int, str], iterators: Sequence[str], reads: Sequence[Sequence[ir.AffineExpr]]
) -> None:
    windows: list[tuple[int, int]] = []
    for number, read in enumerate(reads):
        others = set[int]().union(
            *(used_dims(e) for r in (*reads[:number], *reads[number + 1 :]) for e in r)
        )
        for expr in read:
            atoms = [a for a in linear_terms(expr)[0] if isinstance(a, ir.AffineDimExpr)]
            by_kind = sorted((iterators[a.position], a.position) for a in atoms)
            if [kind for kind, _ in by_kind] != ["parallel", "reduction"]:
                continue
            pair = (by_kind[0][1], by_kind[1][1])
            if pair not in windows and pair[0] not in others:  # else it counts the groups
                windows.append(pair)
    letters = "dhw"[-len(windows) :] if 0 < len(windows) <= 3 else ""
    for letter, (spatial, kernel) in zip(letters, windows, strict=False):
        names[spatial], names[kernel] = letter, f"k{letter}"


def _name_contraction(
    names: dict[int, str],
    iterators: Sequence[str],
    reads: Sequence[Sequence[ir.AffineExpr]],
    has_windows: bool,
) -> None:
    left, right = (set[int]().union(*map(used_dims, read)) for read in reads[:2])
    first, second, summed, shared = ("n", "m", "c", "g") if has_windows else ("m", "n", "k", "b")
    groups: dict[str, list[int]] = {first: [], second: [], summed: [], shared: []}
    for dim, iterator in enumerate(iterators):
        if dim in names or iterator == "sequential":
            continue
        if iterator == "reduction":
            groups[summed].append(dim)
        elif dim in left and dim in right:
            groups[shared].append(dim)
        else:
            groups[first if dim in left else second].append(dim)
    for letter, dims in groups.items():
        for number, dim in enumerate(dims):
            names[dim] = letter if len(dims) == 1 else f"{letter}{number}"
