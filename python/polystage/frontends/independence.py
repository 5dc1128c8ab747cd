"""The proof that no item of a batch depends on another, on linalg over tensors.

Every value is followed from the inputs: in a batched one, one dimension holds the items. Of extent
batch * inner, it holds `inner` elements of each (what merging dimensions gives). In a value that
all items share, some dimensions may be ones along which nothing changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polystage.constants import constant_array
from polystage.errors import FrontendError, location_text
from polystage.forms import walk
from polystage.frontends.diagnostics import run_upstream
from polystage.frontends.model import ImportedModel
from polystage.mlir import func, ir
from polystage.passes.tensors.normalize import PREPARE
from polystage.pipeline import run_pipeline
from polystage.pipeline_syntax import MODULE
from polystage.slices import reassociation

_SIGNED_LESS = 2
"""The predicate of arith.cmpi."""

_INDEX_ARITHMETIC = ("arith.index_cast", "arith.cmpi", "arith.addi", "arith.select")

_GENERALISE = "builtin.module(canonicalize,linalg-generalize-named-ops)"


@dataclass(frozen=True)
class Batched:
    """A value whose dimension `axis` holds the items, `inner` elements for each."""

    axis: int
    inner: int
    merged_at: str = ""
    """The operation that made `inner` more than 1."""


@dataclass(frozen=True)
class Shared:
    """A value that all items have in common.

    It is the same along the dimensions in `uniform`; along those in `numbered`, it counts from 0.
    """

    uniform: frozenset[int] = frozenset()
    numbered: frozenset[int] = frozenset()


State = Batched | Shared


class _DependentError(Exception):
    """Items depend on each other, and why."""


def check_independence(model: ImportedModel, inputs: Sequence[str], batch: int) -> None:
    """Prove that item i of every output depends on item i of the `inputs` alone.

    Where that fails at first, values that depend on constants only are computed: masks and
    positions are often one and the same for all items, which only their values show.

    Raises: FrontendError at the first operation where it does not, or where that is not known.
    """
    with model.module.context, ir.Location.unknown():
        module = model.module.operation.clone()
    run_upstream(module, _GENERALISE, model.name)
    try:
        _prove(module, model, inputs, batch)
    except FrontendError:
        run_pipeline(module, f"{MODULE}({PREPARE})")
        _prove(module, model, inputs, batch)


def _prove(module: ir.Module, model: ImportedModel, inputs: Sequence[str], batch: int) -> None:
    function = next(op for op in module.body if isinstance(op, func.FuncOp))
    block = function.regions[0].blocks[0]
    names = [spec.name for spec in model.inputs]
    states: dict[ir.Value, State] = {
        argument: Batched(0, 1) if name in inputs else Shared()
        for argument, name in zip(block.arguments, names, strict=True)
    }
    proof = _Proof(states, batch)
    for op in block:
        _follow(proof, op.operation, model.name)


def _follow(proof: "_Proof", op: ir.Operation, name: str) -> None:
    try:
        proof.follow(op)
    except _DependentError as error:
        read = [proof.states.get(value) for value in op.operands]
        merged = next((s.merged_at for s in read if isinstance(s, Batched) and s.merged_at), "")
        raise FrontendError(
            f"{name}: at '{location_text(op.location)}': the items of a batch of {proof.batch} "
            f"are not independent: {error}",
            help=f"'{merged}' merges the batch with another dimension"
            if merged
            else "import the model without a batch, or export it with the batch to compile it for",
        ) from None


class _Proof:
    """The states of all values so far."""

    def __init__(self, states: dict[ir.Value, State], batch: int) -> None:
        self.states, self.batch = states, batch
        self.rules: Mapping[str, Callable[[ir.Operation], State]] = {
            "tensor.expand_shape": self._expand,
            "tensor.collapse_shape": self._collapse,
            "tensor.pad": self._pad,
            "tensor.extract_slice": self._extract_slice,
            "tensor.insert_slice": self._insert_slice,
            "tensor.concat": self._concat,
            "tensor.cast": lambda op: self._state(op.operands[0]),
            "tensor.empty": lambda op: _uniform(op.results[0]),
            "arith.constant": self._constant,
        }

    def follow(self, op: ir.Operation) -> None:
        """Give the results of an operation their states.

        Raises: _DependentError.
        """
        read = [*op.operands, *_captured(op)]
        is_batched = any(isinstance(self._state(v), Batched) for v in read)
        if op.name in ("func.return", "cf.assert") or not op.results:
            return
        if op.name == "linalg.generic":
            self.states.update(zip(op.results, self._generic(op), strict=True))
            return
        if op.name in self.rules:
            state = self.rules[op.name](op)
        elif not is_batched:
            state = Shared()
        elif op.name.partition(".")[0] in ("arith", "math"):
            state = self._elementwise(op)
        else:
            raise _DependentError(f"the batch cannot be followed through '{op.name}'")
        for result in op.results:
            self.states[result] = state

    def _state(self, value: ir.Value) -> State:
        return self.states.get(value, Shared())

    def _constant(self, op: ir.Operation) -> State:
        """Compare the values of a constant along the dimensions that may hold the items."""
        value, shape = op.attributes["value"], _shape(op.results[0])
        if isinstance(value, ir.DenseElementsAttr) and value.is_splat:
            return _uniform(op.results[0])
        axes = [axis for axis, extent in enumerate(shape) if extent == self.batch]
        if not axes:
            return Shared()
        array = constant_array(value, op.context)
        uniform = frozenset(a for a in axes if (array == array.take([0], a)).all())
        return Shared(uniform, frozenset(a for a in axes if _counts(array, a)))

    def _elementwise(self, op: ir.Operation) -> State:
        states = [self._state(v) for v in op.operands]
        batched = [s for s in states if isinstance(s, Batched)]
        first = batched[0]
        for state in states:
            self._hold(state, first.axis, first)
        return first

    def _hold(self, state: State, axis: int, batched: Batched) -> None:
        """Hold a value to being the same item by item, or the same for all, along `axis`."""
        if isinstance(state, Batched):
            if (state.axis, state.inner) != (axis, batched.inner):
                raise _DependentError("it combines values whose batches lie differently")
        elif axis not in state.uniform:
            raise _DependentError("it combines the items with a value that is not one for all")

    def _expand(self, op: ir.Operation) -> State:
        state, shape = self._state(op.operands[0]), _shape(op.results[0])
        if isinstance(state, Shared):
            return _uniform_of_groups(state, op, is_expanded=True)
        group = reassociation(op)[state.axis]
        for axis in group:
            if shape[axis] % self.batch == 0:
                return Batched(axis, shape[axis] // self.batch, state.merged_at)
            if shape[axis] != 1:
                break
        raise _DependentError(
            f"it splits the dimension that holds the batch into {[shape[i] for i in group]}"
        )

    def _collapse(self, op: ir.Operation) -> State:
        state, shape = self._state(op.operands[0]), _shape(op.operands[0])
        if isinstance(state, Shared):
            return _uniform_of_groups(state, op, is_expanded=False)
        position, group = next((i, g) for i, g in enumerate(reassociation(op)) if state.axis in g)
        before = [shape[i] for i in group if i < state.axis]
        if any(extent != 1 for extent in before):
            raise _DependentError(
                f"it merges the batch behind a dimension of {max(before)} elements"
            )
        inner = _shape(op.results[0])[position] // self.batch
        merged = state.merged_at if inner == state.inner else location_text(op.location)
        return Batched(position, inner, merged)

    def _pad(self, op: ir.Operation) -> State:
        state = self._state(op.operands[0])
        if isinstance(state, Shared):
            return Shared()
        pad = [list(op.attributes[f"static_{side}"]) for side in ("low", "high")]
        if any(side[state.axis] != 0 for side in pad):
            raise _DependentError("it pads the batch")
        return state

    def _extract_slice(self, op: ir.Operation) -> State:
        state = self._state(op.operands[0])
        kept = _kept(op, _shape(op.results[0]))
        if isinstance(state, Shared):
            return Shared(frozenset(i for i, axis in enumerate(kept) if axis in state.uniform))
        self._whole(op, _shape(op.operands[0]), state.axis)
        return Batched(kept.index(state.axis), state.inner, state.merged_at)

    def _insert_slice(self, op: ir.Operation) -> State:
        source, target = (self._state(v) for v in list(op.operands)[:2])
        kept = _kept(op, _shape(op.operands[0]))
        if isinstance(source, Shared) and isinstance(target, Shared):
            return Shared()
        if isinstance(target, Batched):
            state = target
        else:
            assert isinstance(source, Batched)
            state = Batched(kept[source.axis], source.inner, source.merged_at)
            self._hold(target, state.axis, state)
        self._whole(op, _shape(op.results[0]), state.axis)
        if state.axis not in kept:
            raise _DependentError("it writes to single items")
        self._hold(source, kept.index(state.axis), state)
        return state

    def _whole(self, op: ir.Operation, shape: Sequence[int], axis: int) -> None:
        static = {k: list(op.attributes[f"static_{k}"]) for k in ("offsets", "sizes", "strides")}
        part = (static["offsets"][axis], static["sizes"][axis], static["strides"][axis])
        if part != (0, shape[axis], 1):
            raise _DependentError("it takes only a part of the batch")

    def _concat(self, op: ir.Operation) -> State:
        states = [self._state(v) for v in op.operands]
        first = next((s for s in states if isinstance(s, Batched)), None)
        if first is None:
            return Shared()
        if ir.IntegerAttr(op.attributes["dim"]).value == first.axis:
            raise _DependentError("it joins values along the batch")
        for state in states:
            self._hold(state, first.axis, first)
        return first

    def _generic(self, op: ir.Operation) -> list[State]:
        """Follow the loop that runs over the items through all operands."""
        maps = [ir.AffineMapAttr(m).value for m in op.attributes["indexing_maps"]]
        body = op.regions[0].blocks[0]
        operands = list(zip((self._state(v) for v in op.operands), maps, strict=True))
        extracts = {
            e.operation: s
            for e in body
            if e.operation.name == "tensor.extract"
            and isinstance(s := self._state(e.operands[0]), Batched)
        }
        results = maps[-len(op.results) :]
        batched = [s for s, _ in operands if isinstance(s, Batched)] + list(extracts.values())
        if not batched:
            return [_uniform_of_generic(operands, body, result) for result in results]
        loops = {_loop(m, s.axis) for s, m in operands if isinstance(s, Batched)}
        numbers = {
            argument: _loops(map_)[axis]
            for argument, (state, map_) in zip(body.arguments, operands, strict=True)
            if isinstance(state, Shared)
            for axis in state.numbered
        }
        loops |= {_extracted_loop(e, s.axis, numbers) for e, s in extracts.items()}
        if len(loops) != 1:
            raise _DependentError("it combines values whose batches lie differently")
        (loop,) = loops
        for argument, (state, map_) in zip(body.arguments, operands, strict=True):
            if numbers.get(argument) != loop:
                self._hold_operand(state, map_, loop, batched[0])
        counted = [argument for argument, number in numbers.items() if number == loop]
        _hold_numbers(body, loop, counted, {e: s.axis for e, s in extracts.items()})
        if any(loop not in _loops(result) for result in results):
            raise _DependentError("it computes one value from all items")
        merged = next((s.merged_at for s in batched if s.merged_at), "")
        return [Batched(_loops(r).index(loop), batched[0].inner, merged) for r in results]

    def _hold_operand(self, state: State, map_: ir.AffineMap, loop: int, batched: Batched) -> None:
        for axis, expression in enumerate(map_.results):
            if loop in _dimensions(expression):
                self._hold(state, axis, batched)


def _uniform(value: ir.Value) -> Shared:
    return Shared(frozenset(range(len(_shape(value)))))


def _uniform_of_groups(state: Shared, op: ir.Operation, is_expanded: bool) -> Shared:
    """Return the state of a shared value whose dimensions are split or merged in groups."""
    shape = _shape(op.operands[0])
    uniform: set[int] = set()
    for position, group in enumerate(reassociation(op)):
        before, after = ([position], group) if is_expanded else (group, [position])
        if all(i in state.uniform or shape[i] == 1 for i in before):
            uniform.update(after)
    return Shared(frozenset(uniform))


def _uniform_of_generic(
    operands: Sequence[tuple[State, ir.AffineMap]], body: ir.Block, result: ir.AffineMap
) -> Shared:
    """Return the dimensions of a result along which no operand changes, of a shared value."""
    changing = {_index_loop(o.operation) for o in body if o.operation.name == "linalg.index"}
    for state, map_ in operands:
        assert isinstance(state, Shared)
        for axis, expression in enumerate(map_.results):
            if axis not in state.uniform:
                changing |= _dimensions(expression)
    axes = enumerate(result.results)
    return Shared(frozenset(i for i, e in axes if not _dimensions(e) & changing))


def _loop(map_: ir.AffineMap, axis: int) -> int:
    """Return the loop that runs over the items of an operand."""
    loop = _loops(map_)[axis]
    if loop is None:
        raise _DependentError("it reads several items at once")
    return loop


def _loops(map_: ir.AffineMap) -> list[int | None]:
    """Return by dimension the loop that it is indexed by, if it is that alone."""
    return [
        ir.AffineDimExpr(e).position if isinstance(e, ir.AffineDimExpr) else None
        for e in map_.results
    ]


def _dimensions(expression: ir.AffineExpr) -> set[int]:
    if isinstance(expression, ir.AffineDimExpr):
        return {ir.AffineDimExpr(expression).position}
    if isinstance(expression, ir.AffineBinaryExpr):
        binary = ir.AffineBinaryExpr(expression)
        return _dimensions(binary.lhs) | _dimensions(binary.rhs)
    return set()


def _index_loop(op: ir.Operation) -> int:
    return ir.IntegerAttr(op.attributes["dim"]).value


def _extracted_loop(
    extract: ir.Operation, axis: int, numbers: Mapping[ir.Value, int | None]
) -> int:
    """Return the loop over the items of a value that is read by index.

    `numbers` are arguments of the body that are the count of a loop.
    """
    index = extract.operands[1 + axis]
    while index not in numbers and not isinstance(index.owner, ir.Block):
        owner = index.owner
        if owner.name == "linalg.index":
            return _index_loop(owner)
        if owner.name == "arith.index_cast":
            index = owner.operands[0]
        elif _counts_from_the_end_if_negative(owner):
            index = owner.operands[2]
        else:
            break
    loop = numbers.get(index)
    if loop is None:
        raise _DependentError("which item it reads depends on values")
    return loop


def _counts_from_the_end_if_negative(op: ir.Operation) -> bool:
    """Return whether this is `x < 0 ? .. : x`, which for the number of an item is x."""
    if op.name != "arith.select" or isinstance(op.operands[0].owner, ir.Block):
        return False
    condition = op.operands[0].owner
    if condition.name != "arith.cmpi" or condition.operands[0] != op.operands[2]:
        return False
    zero = condition.operands[1].owner
    return (
        ir.IntegerAttr(condition.attributes["predicate"]).value == _SIGNED_LESS
        and not isinstance(zero, ir.Block)
        and zero.name == "arith.constant"
        and ir.IntegerAttr(zero.attributes["value"]).value == 0
    )


def _hold_numbers(
    body: ir.Block,
    loop: int,
    counted: Sequence[ir.Value],
    extracts: Mapping[ir.Operation, int],
) -> None:
    """Hold the number of the item to choosing the item that is read, and nothing else.

    `counted` are arguments of the body that are this number; `extracts` gives the dimension that
    holds the items of the value that each reads from.
    """
    pending = [
        o.operation.results[0]
        for o in body
        if o.operation.name == "linalg.index" and _index_loop(o.operation) == loop
    ]
    pending += counted
    while pending:
        for use in pending.pop().uses:
            owner = use.owner.operation
            if owner.name in _INDEX_ARITHMETIC:
                pending.append(owner.results[0])
            elif owner not in extracts or use.operand_number != 1 + extracts[owner]:
                raise _DependentError("it computes with the number of the item")


def _counts(array: np.ndarray, axis: int) -> bool:
    """Return whether the values are their own positions along a dimension."""
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return array.dtype.kind in "iu" and bool(
        (array == np.arange(array.shape[axis]).reshape(shape)).all()
    )


def _captured(op: ir.Operation) -> list[ir.Value]:
    """Return the values that the bodies of an operation read from outside."""
    inside = list(walk(op))
    own = {r for inner in inside for r in inner.results}
    own |= {a for region in op.regions for block in region for a in block.arguments}
    return [v for inner in inside for v in inner.operands if v not in own]


def _shape(value: ir.Value) -> tuple[int, ...]:
    type_ = value.type
    return tuple(type_.shape) if isinstance(type_, ir.ShapedType) else ()


def _kept(op: ir.Operation, shape: Sequence[int]) -> list[int]:
    """Return the dimensions of the larger side that the slice of `shape` has."""
    sizes = list(op.attributes["static_sizes"])
    kept: list[int] = []
    for axis, size in enumerate(sizes):
        if len(kept) < len(shape) and size == shape[len(kept)]:
            kept.append(axis)
    return kept
