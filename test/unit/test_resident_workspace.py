"""What the writers of resident operators share."""

from polystage.frontends.model import new_context
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.resident.workspace import PsumBanks


def test_what_is_kept_is_found_until_its_bank_is_taken_again():
    with new_context(), ir.Location.unknown():
        module = ir.Module.create()
        banks = PsumBanks(KernelBuilder(module, "kernel", [], Target.load("neuroncore_v2")))
        kept = banks.take(128, [99])
        banks.keep("sum", kept)
        for _ in banks.banks[1:]:
            assert banks.find("sum") == kept
            banks.take(128, [99])
        assert banks.find("sum") == kept
        banks.take(128, [99])
        assert banks.find("sum") is None
        assert banks.find("another") is None
