"""Operations of the npu dialect.

Every instruction names its operands as memref views. Meaning is sequential program order; every
engine runs the instructions of its own queue in their order, beside the others, and `npu.signal`
and `npu.wait` keep the meaning. Costs are in `polystage.machine.cost`.

This module must not postpone the evaluation of annotations: `ext` reads them as the definition of
the operation.
"""

import weakref
from collections.abc import Sequence
from typing import Any

from polystage.dialects.npu import queue_rules, rules, target_rules
from polystage.dialects.npu.attributes import EngineAttr, NpuDialect
from polystage.dialects.npu.target import target_of
from polystage.machine import Target
from polystage.mlir import ext, ir

MemRef = ext.Operand[ir.MemRefType]


class NpuOp(NpuDialect.Operation):
    """What all npu operations share: a verifier that applies the operation's rules in order."""

    RULES = ()
    TARGET_RULES = ()
    RULES_OF_TYPES = frozenset()
    """Those of both that see nothing but the types of operands: a program has many instructions of
    the same types, and they are applied to the first."""

    @classmethod
    def verify_invariants(cls, op: ir.OpView) -> bool:
        """Report the first broken rule as an error at the operation."""
        message = cls.first_violation(op)
        if message is None:
            return True
        op.location.emit_error(f"'{cls.OPERATION_NAME}' op {message}")
        return False

    @classmethod
    def first_violation(cls, op: ir.OpView) -> str | None:
        """Return the message of the first broken rule, or None."""
        target = target_of(op) if cls.TARGET_RULES else None
        legal, types = cls._legal_types(op, target)
        known = cls.RULES_OF_TYPES if types in legal else ()
        for rule in cls.RULES:
            if rule not in known and (message := rule(op)):
                return message
        for target_rule in cls.TARGET_RULES if target else ():
            if target_rule not in known and (message := target_rule(op, target)):
                return message
        legal.add(types)
        return None

    @classmethod
    def _legal_types(cls, op: ir.OpView, target: Target | None) -> tuple[set[Any], Any]:
        """Return what is known to be legal in a context, and what this operation has of it."""
        if not cls.RULES_OF_TYPES:
            return set(), None
        types = tuple(hash(value.type) for value in op.operands)
        return _legal.setdefault(op.context, set()), (cls.OPERATION_NAME, id(target), types)


_legal: "weakref.WeakKeyDictionary[ir.Context, set[Any]]" = weakref.WeakKeyDictionary()
"""Per context: operations with types that keep all rules of types. The hash of a type is that of an
address, hence unique while its context lives, and so is a target's (see `target_of`)."""


class AllocOp(NpuOp, name="alloc"):
    """Reserve an on-chip buffer that lives until its block ends.

    Dimension 0 is the partition; the other dimensions lie row-major from byte `address` of every
    partition. `address` is absent until `npu-allocate-scratchpad` has run, to which `hint` says
    where the buffer lies in an answer that fits. In a loop, `buffers` may give it several places,
    at `addresses`: its executions, counted over all loops within one call of the kernel, take them
    in turn.

    Cost: none.
    """

    buffer: ext.Result[ir.MemRefType]

    RULES = (
        rules.alloc_is_on_chip,
        queue_rules.address_is_an_integer,
        queue_rules.alloc_rotates,
    )
    TARGET_RULES = (target_rules.alloc_fits,)


class OverlayOp(NpuOp, name="overlay", traits=[ext.Pure]):
    """See one array laid over another: where `source` does not reach lies `base`, or a constant.

    Element `x` of the result is `source[x - offsets]` where that lies inside of the source, else
    `base[x]`, or the attribute `fill`, or nothing defined if there is neither, and then nobody may
    read it. The result is a view: it has no storage, and shows what its operands hold when it is
    read. A concatenation is a chain of overlays, the one at the end on top; a padded array is one
    overlay with a fill. Only `linalg.generic` reads it, as an input.

    Cost: none; loading a tile of the result is a transfer for each operand in the tile, and a
    memset where the fill shows.
    """

    source: MemRef
    base: MemRef | None
    result: ext.Result[ir.MemRefType]
    offsets: Any  # DenseI64ArrayAttr, which IRDL has no name for

    RULES = (
        rules.overlay_is_an_identity_view,
        rules.overlay_types,
        rules.overlay_window,
        rules.overlay_is_read_by_linalg,
    )


class DmaOp(NpuOp, name="dma"):
    """Copy a strided window: `destination := source`; a source extent of 1 is repeated.

    DRAM to sbuf, sbuf to DRAM, or within one of them. `cause` says what the bytes are for: input,
    weight, intermediate, output or copy. `queue` is the DMA queue that executes it, absent until
    `npu-insert-sync` has run.

    Cost: start-up, plus the larger of descriptor work over all DMA engines and bytes over DRAM
    bandwidth.
    """

    source: MemRef
    destination: MemRef
    cause: ir.StringAttr

    RULES = (
        rules.dma_cause,
        rules.dma_spaces,
        rules.dma_shapes,
        rules.partition_comes_first,
        queue_rules.dma_queue_is_a_name,
    )
    TARGET_RULES = (target_rules.transfer_fits, queue_rules.dma_queue_is_of_the_target)


class MemsetOp(NpuOp, name="memset"):
    """Write `value` to every element of the destination.

    Cost: one vector pass without input.
    """

    destination: MemRef
    value: ir.FloatAttr | ir.IntegerAttr
    engine: EngineAttr

    RULES = (
        rules.engine_is_known,
        rules.operands_in({0: ("sbuf", "psum")}),
        rules.partition_comes_first,
    )
    TARGET_RULES = (target_rules.partition_start_is_legal, target_rules.pattern_fits)


class MatmulOp(NpuOp, name="matmul"):
    """Contract over the partitions: `sums[m, n..] (+)= sum_k stationary[k, m] * moving[k, n..]`.

    `accumulate` false overwrites the sums, true adds to them. The unit attribute `auxiliary` says
    that an operand is an identity or ones: what is added, turned or summed so takes its time and
    energy, but is no multiply-accumulate of the model. Products are exact, sums are in the type of
    `sums`. They lie in psum, or in sbuf where that is flat: then all operands have the one
    partition before k or m, `sums[0, m, n..]`, and k, m and n are as large as they like.

    Cost: LoadStationary where the stationary operand changed, and max(N, min_issue) columns, times
    the factor of the type, for each of ceil(K / rows) * ceil(M / columns) passes over the array.
    """

    stationary: MemRef
    moving: MemRef
    sums: MemRef
    accumulate: ext.Operand[ir.IntegerType[1]]

    RULES = (
        rules.operands_in({0: ("sbuf",), 1: ("sbuf",), 2: ("psum", "sbuf")}),
        rules.matmul_types,
        rules.matmul_shapes,
        rules.auxiliary_is_a_flag,
        rules.partition_comes_first,
    )
    TARGET_RULES = (
        target_rules.sums_are_in_reach,
        target_rules.matmul_fits,
        target_rules.partition_start_is_legal,
        target_rules.pattern_fits,
    )
    RULES_OF_TYPES = frozenset({*RULES, *TARGET_RULES}) - {
        rules.auxiliary_is_a_flag,
        rules.partition_comes_first,
        target_rules.partition_start_is_legal,
    }


class TransposeOp(NpuOp, name="transpose"):
    """Transpose a tile through the tensor engine: `destination[b, a] = source[a, b]`, exactly.

    Cost: a matmul with the identity.
    """

    source: MemRef
    destination: MemRef

    RULES = (
        rules.operands_in({0: ("sbuf",), 1: ("psum",)}),
        rules.transpose_shapes,
        rules.partition_comes_first,
    )
    TARGET_RULES = (
        target_rules.transpose_fits,
        target_rules.partition_start_is_legal,
        target_rules.pattern_fits,
    )


class BoxOp(NpuOp):
    """What `npu.elementwise` and `npu.reduce` share: inputs, then outputs, over an iteration box.

    IRDL binds a variadic operand to one type, but these differ in type; so there is one optional
    operand for each, filled from the front. The function tells how many are outputs.
    """

    operand0: MemRef | None
    operand1: MemRef | None
    operand2: MemRef | None
    operand3: MemRef | None
    operand4: MemRef | None
    operand5: MemRef | None
    operand6: MemRef | None
    operand7: MemRef | None
    operand8: MemRef | None
    operand9: MemRef | None
    operand10: MemRef | None
    operand11: MemRef | None
    function: ir.FlatSymbolRefAttr
    engine: EngineAttr
    sizes: Any  # DenseI64ArrayAttr, which IRDL has no name for
    indexing_maps: ir.ArrayAttr

    MAX_OPERANDS = 12
    RULES = (
        rules.engine_is_known,
        rules.operands_in({-1: ("sbuf", "psum")}),
        rules.linear_maps,
        rules.partition_comes_first,
    )
    TARGET_RULES = (target_rules.partition_start_is_legal, target_rules.pattern_fits)


class ElementwiseOp(BoxOp, name="elementwise"):
    """Apply a scalar function to every point of an iteration box, all dimensions parallel.

    `function` names a private function of arith operations: one argument per input, then one per
    output (its present value);
    one result per output. Dimension 0 of the box is the partition. Reads are cast to the argument
    types, writes to the
    element types. `indexing_maps` are linear, as in linalg.generic.

    Cost: per operation of the body N elements per partition, 2N where it reads two tensors; less
    where the target's engine takes two operations in one pass, or two tensors at the rate of one.
    """


class ReduceOp(BoxOp, name="reduce"):
    """Fold a scalar function over the dimensions of the box that no output map mentions.

    `out = function(inputs.., out)`, starting with the value present in the output. The partition
    is never reduced.

    Cost: as `npu.elementwise` over the whole box.
    """


class ActivateOp(NpuOp, name="activate"):
    """Apply a function of the scalar engine: `destination = function(scale * source + bias)`.

    Three more operands, each there or not, have one element per partition: `shift` is added to
    `bias`, `factor` stands in place of `scale`, and `total` is overwritten with the sum of the
    results over all free dimensions, before they are rounded to the destination's type.

    Cost: N elements per partition, 64 cycles more with a total; scale, bias, shift and factor are
    free.
    """

    source: MemRef
    destination: MemRef
    shift: MemRef | None
    factor: MemRef | None
    total: MemRef | None
    function: ir.StringAttr
    scale: ir.FloatAttr
    bias: ir.FloatAttr

    RULES = (
        rules.activation_is_known,
        rules.activation_operands,
        rules.same_shape,
        rules.activation_columns,
        rules.scale_is_given_once,
        rules.partition_comes_first,
    )
    TARGET_RULES = (target_rules.partition_start_is_legal, target_rules.pattern_fits)


class IotaOp(NpuOp, name="iota"):
    """Write coordinates: `destination[i0, ..] = offset + i_dimension`.

    Cost: one pass of gpsimd.
    """

    destination: MemRef
    offset: ext.Operand[ir.IndexType]
    dimension: ir.IntegerAttr

    RULES = (rules.operands_in({0: ("sbuf",)}), rules.iota_types, rules.partition_comes_first)
    TARGET_RULES = (target_rules.partition_start_is_legal, target_rules.pattern_fits)


class GatherOp(NpuOp, name="gather"):
    """Look up rows: `destination = table[indices[0], indices[1], ..]`, as numpy indexes.

    The table lies in DRAM. An index outside the table is an error at run time.

    Cost: one DMA descriptor per looked-up row.
    """

    table: MemRef
    destination: MemRef
    indices: Sequence[MemRef]

    RULES = (
        rules.operands_in({0: ("dram",), -1: ("sbuf",)}),
        rules.gather_shapes,
        rules.partition_comes_first,
    )


class SemaphoreOp(NpuOp):
    """What `npu.signal` and `npu.wait` share: the queue that they stand in, and a semaphore."""

    queue: ir.StringAttr
    semaphore: ir.IntegerAttr

    RULES = (queue_rules.queue_is_a_name, queue_rules.semaphore_is_declared)
    TARGET_RULES = (queue_rules.queue_is_of_the_target,)


class SignalOp(SemaphoreOp, name="signal"):
    """Raise `semaphore` by one when every earlier instruction of `queue` has completed.

    The queue goes on meanwhile. A semaphore starts at its value in the module's `npu.semaphores`;
    one queue signals it and one waits for it, so that the k-th wait takes the k-th signal whatever
    the timing. Loops and calls are executed by every queue.

    Cost: none.
    """


class WaitOp(SemaphoreOp, name="wait"):
    """Hold `queue` up until `semaphore` is positive, then lower it by one.

    Cost: none beyond the wait.
    """
