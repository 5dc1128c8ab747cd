"""npu programs as text, for tests of the simulator."""

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from polystage.dialects import npu
from polystage.dialects.npu.target import target_attribute
from polystage.machine import Target
from polystage.mlir import ir


@dataclass(frozen=True)
class Value:
    """An SSA value of memref type."""

    name: str
    shape: tuple
    dtype: str = "f32"
    space: str = ""
    strides: tuple | None = None
    offset: object = 0

    @property
    def type(self):
        parts = ["x".join([*map(str, self.shape), self.dtype])]
        if self.strides is not None:
            at = f", offset: {self.offset}" if self.offset else ""
            parts.append(f"strided<{list(self.strides)}{at}>")
        if self.space:
            parts.append(f'#npu.space<"{self.space}">')
        return f"memref<{', '.join(parts)}>"

    def layout(self):
        if self.strides is not None:
            return self.strides
        strides, size = [], 1
        for n in reversed(self.shape):
            strides.insert(0, size)
            size *= n
        return tuple(strides)


class Kernel:
    """Writes the text of one kernel."""

    def __init__(self, name="kernel", **arguments):
        self.name = name
        self.arguments = {n: replace(v, name=f"%{n}") for n, v in arguments.items()}
        self.lines, self.count, self.constants = [], 0, {}

    def __getattr__(self, name):
        return self.arguments[name]

    def fresh(self):
        self.count += 1
        return f"%v{self.count}"

    def const(self, value, type_="index"):
        key = f"%c{str(value).replace('-', 'm')}_{type_}"
        typed = value if type_ == "i1" else f"{value} : {type_}"
        self.constants[key] = f"{key} = arith.constant {typed}"
        return key

    def emit(self, line):
        self.lines.append(line)

    def loop(self, low, high, step, body):
        iv = f"%i{self.count}"
        self.count += 1
        bounds = f"{self.const(low)} to {self.const(high)} step {self.const(step)}"
        self.emit(f"scf.for {iv} = {bounds} {{")
        body(iv)
        self.emit("}")

    def index(self, op, a, b):
        name = self.fresh()
        a, b = (x if isinstance(x, str) else self.const(x) for x in (a, b))
        self.emit(f"{name} = {op} {a}, {b} : index")
        return name

    def op(self, name, operands, attributes=""):
        names = ", ".join(o.name for o in operands)
        types = ", ".join(o.type for o in operands)
        self.emit(f'"npu.{name}"({names}) {{{attributes}}} : ({types}) -> ()')

    def alloc(self, shape, dtype="f32", space="sbuf", address=0):
        """Place a buffer at an address, or at several in turn."""
        value = Value(self.fresh(), tuple(shape), dtype, space)
        at = "" if address is None else f"address = {address} : i64"
        if isinstance(address, list):
            places = ", ".join(map(str, address))
            at = (
                f"buffers = {len(address)} : i64, address = {address[0]} : i64, "
                f"addresses = array<i64: {places}>"
            )
        self.emit(f'{value.name} = "npu.alloc"() {{{at}}} : () -> {value.type}')
        return value

    def subview(self, source, offsets, sizes, steps=None):
        steps = steps or [1] * len(sizes)
        dynamic = any(isinstance(o, str) for o in offsets) or source.offset == "?"
        strides = source.layout()
        offset = (
            "?"
            if dynamic
            else (source.offset or 0) + sum(o * s for o, s in zip(offsets, strides, strict=True))
        )
        result = Value(
            self.fresh(),
            tuple(sizes),
            source.dtype,
            source.space,
            tuple(s * k for s, k in zip(strides, steps, strict=True)),
            offset,
        )
        text = " ".join(f"[{', '.join(map(str, x))}]" for x in (offsets, sizes, steps))
        self.emit(
            f"{result.name} = memref.subview {source.name}{text} : {source.type} to {result.type}"
        )
        return result

    def dma(self, source, destination, cause="input", queue=None):
        named = f', queue = "{queue}"' if queue else ""
        self.op("dma", [source, destination], f'cause = "{cause}"{named}')

    def signal(self, queue, semaphore):
        self.op("signal", [], f'queue = "{queue}", semaphore = {semaphore} : i64')

    def wait(self, queue, semaphore):
        self.op("wait", [], f'queue = "{queue}", semaphore = {semaphore} : i64')

    def load(self, source, address=0, cause="input"):
        buffer = self.alloc(source.shape, source.dtype, address=address)
        self.dma(source, buffer, cause)
        return buffer

    def memset(self, value, number, engine="vector"):
        attribute = f"{float(number)}" if value.dtype[0] in "fb" else f"{int(number)}"
        self.op(
            "memset",
            [value],
            f'value = {attribute} : {value.dtype}, engine = #npu.engine<"{engine}">',
        )

    def matmul(self, a, b, psum, accumulate=False):
        flag = accumulate
        if not isinstance(flag, str):
            flag = self.const(str(accumulate).lower(), "i1")
        names = f"{a.name}, {b.name}, {psum.name}, {flag}"
        self.emit(f'"npu.matmul"({names}) : ({a.type}, {b.type}, {psum.type}, i1) -> ()')

    def box(self, op, function, operands, sizes, maps, engine="vector"):
        dims = ", ".join(f"d{i}" for i in range(len(sizes)))
        maps = ", ".join(f"affine_map<({dims}) -> ({m})>" for m in maps)
        segments = [1] * len(operands) + [0] * (12 - len(operands))
        self.op(
            op,
            operands,
            f'function = @{function}, engine = #npu.engine<"{engine}">, '
            f"sizes = array<i64: {', '.join(map(str, sizes))}>, indexing_maps = [{maps}], "
            f"operandSegmentSizes = array<i32: {', '.join(map(str, segments))}>",
        )

    def activate(
        self,
        source,
        destination,
        function="identity",
        scale=1.0,
        bias=0.0,
        shift=None,
        factor=None,
        total=None,
    ):
        columns = [shift, factor, total]
        segments = ", ".join(str(int(c is not None)) for c in columns)
        self.op(
            "activate",
            [source, destination, *(c for c in columns if c is not None)],
            f'function = "{function}", scale = {float(scale)} : f32, bias = {float(bias)} : f32, '
            f"operandSegmentSizes = array<i32: 1, 1, {segments}>",
        )

    def text(self):
        arguments = ", ".join(f"{v.name}: {v.type}" for v in self.arguments.values())
        body = "\n".join([*self.constants.values(), *self.lines, "return"])
        return (
            f"func.func private @{self.name}({arguments}) attributes {{npu.kernel}} {{\n{body}\n}}"
        )


FUNCTIONS = """
func.func private @add(%a: f32, %b: f32, %o: f32) -> f32 {
  %r = arith.addf %a, %b : f32 return %r : f32 }
func.func private @copy(%a: f32, %o: f32) -> f32 { return %a : f32 }
func.func private @double(%a: f32, %o: f32) -> f32 { %r = arith.addf %a, %a : f32 return %r : f32 }
func.func private @accumulate(%a: f32, %o: f32) -> f32 {
  %r = arith.addf %a, %o : f32 return %r : f32 }
func.func private @max(%a: f32, %o: f32) -> f32 { %r = arith.maximumf %a, %o : f32 return %r : f32 }
func.func private @mac(%a: f32, %b: f32, %o: f32) -> f32 {
  %m = arith.mulf %a, %b : f32 %r = arith.addf %m, %o : f32 return %r : f32 }
func.func private @argmax(%a: f32, %i: i32, %o: f32, %oi: i32) -> (f32, i32) {
  %c = arith.cmpf ogt, %a, %o : f32
  %r = arith.select %c, %a, %o : f32
  %s = arith.select %c, %i, %oi : i32
  return %r, %s : f32, i32 }
"""


def program(
    *kernels,
    results=("y",),
    target="neuroncore_v2",
    overrides=None,
    main=None,
    extra="",
    semaphores=None,
    drop_inputs=(),
):
    """Return a module whose @main calls the kernels one after the other with arguments by name."""
    arguments = {}
    for kernel in kernels:
        arguments |= kernel.arguments
    made = {n for n in arguments if n in results or n.startswith("t") or n in drop_inputs}
    inputs = [n for n in arguments if n not in made]
    signature = ", ".join(f'%{n}: {arguments[n].type} {{npu.name = "{n}"}}' for n in inputs)
    lines = [f"%{n} = memref.alloc() : {v.type}" for n, v in arguments.items() if n not in inputs]
    for kernel in kernels:
        values = kernel.arguments.values()
        names, types = ", ".join(v.name for v in values), ", ".join(v.type for v in values)
        lines.append(f'call @{kernel.name}({names}) {{layer = "{kernel.name}"}} : ({types}) -> ()')
    returned = ", ".join(arguments[n].type for n in results)
    typed = ", ".join(f'{arguments[n].type} {{npu.name = "{n}"}}' for n in results)
    lines.append(f"return {', '.join(f'%{n}' for n in results)} : {returned}")
    body = "\n".join(main or lines)
    texts = "\n".join(k.text() for k in kernels)
    return module_of(
        f"{FUNCTIONS}{extra}\n{texts}\nfunc.func @main({signature}) -> ({typed}) {{\n{body}\n}}",
        target,
        overrides,
        semaphores,
    )


def module_of(text, target="neuroncore_v2", overrides=None, semaphores=None):
    context = ir.Context()
    npu.load(context)
    with context, ir.Location.unknown():
        values = ", ".join(map(str, semaphores or []))
        declared = f"npu.semaphores = array<i64{': ' if values else ''}{values}>"
        attributes = f"attributes {{ {declared} }}" if semaphores is not None else ""
        module = ir.Module.parse(f"module {attributes} {{ {text} }}")
        if target:
            attribute = target_attribute(Target.load(target, overrides))
            module.operation.attributes["npu.target"] = attribute
    return module


def dram(*shape, dtype="f32"):
    return Value("", shape, dtype)


def random(*shape, dtype=np.float32, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return (values * 10).astype(dtype) if np.dtype(dtype).kind == "i" else values.astype(dtype)


def chain(k, source, destination, address, functions=1):
    buffer = k.load(source, address)
    n = prod(source.shape[1:])
    for _ in range(functions):
        k.box("elementwise", "double", [buffer, buffer], [source.shape[0], n], ["d0, d1"] * 2)
    k.dma(buffer, destination, "output")
