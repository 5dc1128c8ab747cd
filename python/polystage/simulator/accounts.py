"""What every layer does: bytes, operations and instructions of its calls, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from polystage.machine import cost, energy
from polystage.machine.target import Target
from polystage.simulator.decode import Counts, Decoded, Shape, Work
from polystage.simulator.memory import DramBuffer
from polystage.simulator.result import Cost, LayerResult

BUSY = ("tensor", "vector", "scalar", "gpsimd", "dma")
"""What is busy: the compute engines, and all DMA engines together."""


class HasBytes(Protocol):
    """An operand of a call."""

    @property
    def bytes(self) -> int:
        """How many bytes of the buffer the call may touch."""
        ...


@dataclass
class Account:
    """What a layer has added up in one inference."""

    name: str
    calls: int = 0
    counts: Counts = field(default_factory=Counter)
    matmuls: Counter[Shape] = field(default_factory=Counter)
    compulsory_bytes: int = 0
    peak_sbuf_bytes: int = 0

    def close(
        self,
        target: Target,
        inferences: int,
        compulsory_bytes: int,
        latency_ns: float,
        busy_ns: Sequence[float],
    ) -> Cost:
        """Return the figures of some inferences, given what the timeline says."""
        counts = Counter({key: n * inferences for key, n in self.counts.items()})
        macs = {key[1]: n for key, n in counts.items() if key[0] == "macs"}
        mac_bound = sum(cost.compute_bound_ns(target, n, dtype) for dtype, n in macs.items())
        return Cost(
            latency_ns=latency_ns,
            clock_ghz=target.tensor.clock_ghz,
            macs=sum(macs.values()),
            mac_bound_ns=mac_bound,
            compulsory_bytes=compulsory_bytes,
            latency_bound_ns=max(mac_bound, cost.dram_bound_ns(target, compulsory_bytes)),
            dram_read_by_cause=_by(counts, "dram_read"),
            dram_write_by_cause=_by(counts, "dram_write"),
            onchip_copy_bytes=counts[("onchip_copy",)],
            offchip_copy_bytes=counts[("offchip_copy",)],
            energy_pj=_energy(target, counts, latency_ns),
            peak_sbuf_bytes=self.peak_sbuf_bytes,
            busy_ns=dict(zip(BUSY, busy_ns, strict=True)),
            instructions=_by(counts, "instructions"),
            matmuls={shape: n * inferences for shape, n in sorted(self.matmuls.items())},
            operations=_by(counts, "operations"),
            sbuf_bytes=counts[("sbuf",)],
            psum_bytes=counts[("psum",)],
        )


def _energy(target: Target, counts: Counts, latency_ns: float) -> dict[str, float]:
    done = Counter(_by(counts, "macs")) + Counter(_by(counts, "auxiliary"))
    dram = sum(n for key, n in counts.items() if key[0] in ("dram_read", "dram_write"))
    vector = energy.op_pj(target, "vector", counts[("operations", "vector")])
    scalar = energy.op_pj(target, "scalar", counts[("operations", "scalar")])
    gpsimd = energy.op_pj(target, "gpsimd", counts[("operations", "gpsimd")])
    return {
        "mac": sum(energy.mac_pj(target, n, dtype) for dtype, n in done.items()),
        "register": sum(energy.register_pj(target, n, dtype) for dtype, n in done.items()),
        "vector": vector + scalar + gpsimd,
        "sbuf": energy.access_pj(target, "sbuf", counts[("sbuf",)]),
        "psum": energy.access_pj(target, "psum", counts[("psum",)]),
        "dram": energy.access_pj(target, "dram", dram),
        "static": energy.static_pj(target, latency_ns),
    }


def _by(counts: Counts, kind: str) -> dict[str, int]:
    return {key[1]: n for key, n in sorted(counts.items()) if key[0] == kind}


class Accounts:
    """The layers of one inference, in order of their first call."""

    def __init__(self) -> None:
        self.layers: dict[str, Account] = {}
        self.calls: list[str] = []

    def charge(
        self,
        layer: str,
        decoded: Decoded,
        operands: Sequence[HasBytes],
        buffers: Sequence[DramBuffer],
        peak_bytes: int,
    ) -> None:
        """Write down a call of a kernel on behalf of a layer, and of those that instructions name.

        What is not done for the layer of the call, it does not appear for.
        """
        works = decoded.work or {"": Work()}
        for named, work in works.items():
            self._charge(named or layer, work, operands, buffers, peak_bytes)
        self.calls.append(layer if "" in works else next(reversed(works)))

    def _charge(
        self,
        layer: str,
        work: Work,
        operands: Sequence[HasBytes],
        buffers: Sequence[DramBuffer],
        peak_bytes: int,
    ) -> None:
        account = self.layers.setdefault(layer, Account(layer))
        account.calls += 1
        account.counts.update(_resolved(work.counts, buffers))
        account.matmuls.update(work.matmuls)
        account.peak_sbuf_bytes = max(account.peak_sbuf_bytes, peak_bytes)
        for slot, (operand, buffer) in enumerate(zip(operands, buffers, strict=True)):
            read = work.counts[("slot_read", str(slot))]
            written = work.counts[("slot_write", str(slot))]
            if buffer.kind != "auxiliary":
                account.compulsory_bytes += min(operand.bytes, written or read)
            buffer.read_bytes += read
            buffer.written_bytes += written

    def add(self, work: Iterable[Work]) -> None:
        """Add to what the last call did, if there was one."""
        if self.calls:
            for done in work:
                self.layers[self.calls[-1]].counts.update(done.counts)

    def layer_of_calls(self) -> list[int]:
        """Return the number of the layer of every call, or of the last that the call works for."""
        number = {name: i for i, name in enumerate(self.layers)}
        return [number[name] for name in self.calls]

    def results(
        self,
        target: Target,
        inferences: int,
        latency_ns: Sequence[float],
        busy_ns: Sequence[Sequence[float]],
    ) -> tuple[LayerResult, ...]:
        """Return what the layers cost; what a layer must move, it must in every inference."""
        found = []
        # Where nothing is called there is no layer, though the trace has a place for one.
        for account, latency, busy in zip(self.layers.values(), latency_ns, busy_ns, strict=False):
            compulsory = account.compulsory_bytes * inferences
            result = account.close(target, inferences, compulsory, latency, busy)
            found.append(LayerResult(account.name, account.calls * inferences, result))
        return tuple(found)

    def total(
        self,
        target: Target,
        inferences: int,
        compulsory_bytes: int,
        latency_ns: float,
        busy_ns: Sequence[float],
    ) -> Cost:
        """Return what all layers cost together."""
        total = Account("")
        for account in self.layers.values():
            total.counts.update(account.counts)
            total.matmuls.update(account.matmuls)
            total.peak_sbuf_bytes = max(total.peak_sbuf_bytes, account.peak_sbuf_bytes)
        return total.close(target, inferences, compulsory_bytes, latency_ns, busy_ns)


def _resolved(counts: Counts, buffers: Sequence[DramBuffer]) -> Counts:
    """Return counts in which a gather's cause is what its table is."""
    causes = {"input": "input", "constant": "weight", "auxiliary": "weight"}
    result: Counts = Counter()
    for key, n in counts.items():
        if key[:2] == ("dram_read", "gather"):
            kind = buffers[int(key[2])].kind
            result[("dram_read", causes.get(kind, "intermediate"))] += n
        elif not key[0].startswith("slot_"):
            result[key] += n
    return result


def compulsory_bytes(
    buffers: Sequence[DramBuffer], outputs: Sequence[DramBuffer], inferences: int
) -> int:
    """Return what must cross the DRAM interface at least.

    Constants once, inputs and outputs in every inference, and of each no more than was moved.
    """
    total = 0
    for buffer in buffers:
        if buffer.kind == "constant":
            total += min(buffer.bytes, buffer.read_bytes * inferences)
        if buffer.kind == "input":
            total += min(buffer.bytes, buffer.read_bytes) * inferences
    for buffer in {id(b): b for b in outputs}.values():
        total += min(buffer.bytes, buffer.written_bytes) * inferences
    return total
