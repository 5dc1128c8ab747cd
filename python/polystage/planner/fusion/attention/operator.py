"""Attention in one pass over the keys: an operator of the planner, and its best tiles.

A tile of queries stays on chip with its running maximum m, running sum l and running result O,
while keys and values come by, tile after tile:

    S = Q Kt, masked and scaled        m' = max(m, rows of S)        P = exp(S - m')
    l = l * exp(m - m') + rows of P    O = O * exp(m - m') + P V     at the end O / l

Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al.,
"FlashAttention" (2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from polystage.errors import PlanError
from polystage.planner.fusion.decisions import Nest
from polystage.planner.fusion.operators import Operator, Scratch
from polystage.polyhedral import Statement

SCORE_BYTES = 4
"""Scores, their maxima and their sums are in f32, as the array of multipliers gives them."""


@dataclass(frozen=True)
class Attention(Operator):
    """Two contractions and what stands between them, row by row of the scores.

    Dims: heads (any number), then queries, keys, depth (summed by the first contraction), values
    (the other dim of the second one's result). `statements` are all that the operator replaces, the
    first contraction in front, fills included.
    """

    dims: tuple[str, ...] = ()
    """Names of the dims, for messages."""
    pointwise: tuple[Statement, ...] = field(default=(), repr=False)
    """What happens to every score by itself before the softmax, in order: scaling, masks.
    Reads of them are `reads[3:]`."""
    has_maximum: bool = False
    """The weights are `exp(score - maximum of its row)`."""
    has_sum: bool = False
    """The result is divided by the sum of its row's weights."""
    masked_rows_are_zero: bool = False
    """A row without any score above -inf gives zeros, rather than NaN."""

    @property
    def epilogue(self) -> tuple[Statement, ...]:
        """Nothing: operands of all statements come with queries and keys."""
        return ()

    @property
    def heads(self) -> tuple[int, ...]:
        """The dims that run one iteration at a time."""
        return tuple(range(len(self.extents) - 4))

    @property
    def queries(self) -> int:
        """The dim that the result has in common with Q."""
        return len(self.extents) - 4

    @property
    def keys(self) -> int:
        """The dim over which weights are normalised and summed."""
        return len(self.extents) - 3

    @property
    def depth(self) -> int:
        """The dim that Q and K are contracted over."""
        return len(self.extents) - 2

    @property
    def values(self) -> int:
        """The dim that the result has in common with V."""
        return len(self.extents) - 1

    @property
    def rows(self) -> tuple[str, ...]:
        """What there is for every query beside the result: its maximum so far, the factor by which
        all that is on chip shrinks, the sum of its weights."""
        return ("maximum", "factor") * self.has_maximum + ("sum",) * self.has_sum

    @property
    def scratch_names(self) -> tuple[str, ...]:
        """What each of `scratch` holds."""
        tiles = ("scores", "weights")[: len(self.scratch) - len(self.rows)]
        return tiles + self.rows


def check_attention_nest(operator: Attention, nest: Nest, box: Sequence[int]) -> None:
    """Refuse a nest that the one pass over the keys cannot have, for boxes of these extents.

    Raises: PlanError.
    """
    dims = [loop.dim for loop in nest.chunks]
    tiles = {loop.dim: loop.tile for loop in nest.chunks}
    for dim in operator.heads:
        if min(tiles.get(dim, box[dim]), box[dim]) > 1:
            raise PlanError(
                f"'{operator.name}' takes {tiles.get(dim, box[dim])} iterations of head dim {dim} "
                f"at once, but a matmul has no batch",
                help=f"give dim {dim} a chunk loop of tile 1",
            )
    for dim in (operator.depth, operator.values):
        if min(tiles.get(dim, box[dim]), box[dim]) < operator.extents[dim]:
            raise PlanError(
                f"'{operator.name}' takes {min(tiles.get(dim, box[dim]), box[dim])} of "
                f"{operator.extents[dim]} iterations of dim {dim}, but each score needs all",
                help=f"leave the loop over dim {dim} out",
            )
    if any(dim in operator.heads for dim in dims[_place(dims, operator.keys) :]):
        raise PlanError(
            f"'{operator.name}' has a loop over heads inside of the one over its keys, dim "
            f"{operator.keys}",
            help="move the loop over the keys inwards: maxima and sums are those of one head",
        )


def _place(dims: Sequence[int], dim: int) -> int:
    """Return the place of a loop, behind all others where there is none."""
    return dims.index(dim) if dim in dims else len(dims)


def scratch_of(
    queries: int, weight_bytes: int, has_maximum: bool, has_sum: bool
) -> tuple[Scratch, ...]:
    """Return what a chunk needs beside its operands: scores, weights unless they replace the scores
    in place, then a maximum and a factor of every row, then its sum."""
    tile = (queries, queries + 1)
    found = [Scratch(tile, SCORE_BYTES)]
    if weight_bytes != SCORE_BYTES:
        found.append(Scratch(tile, weight_bytes))
    kept, factor = (Scratch((queries,), SCORE_BYTES, is_kept) for is_kept in (True, False))
    return (*found, *(kept, factor) * has_maximum, *(kept,) * has_sum)
