"""npu-attach-target: say on the module which machine it is compiled for."""

from dataclasses import dataclass

from polystage.dialects.npu.target import ATTRIBUTE, target_attribute
from polystage.machine import Target, parse_settings
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass


@register_pass
@dataclass
class AttachTargetPass(Pass):
    """Set the module attribute `npu.target` to every value of a machine.

    Later passes, verifiers and the simulator read the machine from the module alone: a `.mlir`
    file says completely what it was compiled for. A target that is there already is replaced.

    ```mlir
    // before: npu-attach-target{target=neuroncore_v2 set=sbuf.bytes_per_partition=98304}
    module { ... }
    // after
    module attributes {npu.target = {sbuf = {bytes_per_partition = 98304 : i64, ...}, ...}} { ... }
    ```
    """

    name = "npu-attach-target"
    input_form = "any"
    output_form = "any"

    target: str = "neuroncore_v2"
    """Name of a preset, or path of a TOML file."""

    set: tuple[str, ...] = ()
    """Single values to change, `key=value` each, separated by commas; see docs/targets.md."""

    def run(self, module: ir.Module) -> None:
        """Attach the target.

        Raises: TargetError for an unknown target, key or value.
        """
        target = Target.load(self.target, parse_settings(self.set))
        with module.context:
            module.operation.attributes[ATTRIBUTE] = target_attribute(target)
