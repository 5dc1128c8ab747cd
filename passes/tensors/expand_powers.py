"""The pass expand-powers."""

from collections.abc import Callable
from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import arith, ir, math
from polystage.passes.registry import Pass, register_pass

_LARGEST = 16


@register_pass
@dataclass
class ExpandPowersPass(Pass):
    """Compute powers with a constant exponent by multiplications and roots.

    The scalar engine has functions of one argument. x ** n with an integer n up to 16 is a product
    (or one over it), halves bring a square root, -1/2 is the reciprocal root. Other powers are left
    to `math-expand-ops`, which knows the signs of x ** y = exp(y * log|x|).
    """

    name = "expand-powers"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Replace `math.powf`, `math.fpowi` and `math.ipowi`."""
        with module.context:
            for op in [o for o in walk(module.operation) if o.name in _POWERS]:
                exponent = _constant(op.operands[1])
                expand = _expansion(exponent, op.name)
                if expand is None:
                    self.remark(op, f"power {exponent or 'that is not constant'} left to upstream")
                    continue
                with ir.InsertionPoint(op), op.location:
                    op.results[0].replace_all_uses_with(expand(op.operands[0]))
                op.erase()
                self.count("powers expanded")


_POWERS = ("math.powf", "math.fpowi", "math.ipowi")


def _constant(value: ir.Value) -> float | None:
    if isinstance(value.owner, ir.Block) or value.owner.name != "arith.constant":
        return None
    return float(value.owner.attributes["value"].value)


def _expansion(exponent: float | None, name: str) -> Callable[[ir.Value], ir.Value] | None:
    if exponent is None or abs(exponent) > _LARGEST or (exponent * 2) % 1:
        return None
    if name == "math.ipowi":
        return (lambda x: _product(x, int(exponent), arith.muli)) if exponent > 0 else None
    if exponent == -0.5:
        return math.rsqrt
    return lambda x: _float_power(x, exponent)


def _float_power(x: ir.Value, exponent: float) -> ir.Value:
    one = arith.ConstantOp(x.type, ir.FloatAttr.get(x.type, 1.0)).result
    whole = int(abs(exponent))
    power = _product(x, whole, arith.mulf) if whole else None
    if abs(exponent) % 1:
        root = math.sqrt(x)
        power = root if power is None else arith.mulf(power, root)
    power = one if power is None else power
    return arith.divf(one, power) if exponent < 0 else power


def _product(x: ir.Value, n: int, multiply: Callable[..., ir.Value]) -> ir.Value:
    """Return x ** n for n >= 1 by repeated squaring."""
    if n == 1:
        return x
    half = _product(x, n // 2, multiply)
    square = multiply(half, half)
    return multiply(square, x) if n % 2 else square
