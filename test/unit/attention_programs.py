"""Attention as programs in buffers form, in the shapes that models have."""

import re
from dataclasses import dataclass

import ml_dtypes
import numpy as np

NARROW = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}


@dataclass(frozen=True)
class AttentionProgram:
    """Heads of attention over arrays `q`, `k`, `v` and perhaps a `mask`.

    `form` is how weights are normalised: `softmax`, `late` (divided after the second contraction),
    `plain` (without a maximum), `guarded` (a row that is masked as a whole gives zeros), `none`
    (elementwise: a relu). `mask` are the dims of the mask, of `h`, `q` and `k`.
    """

    heads: int = 2
    queries: int = 5
    keys: int = 7
    depth: int = 4
    values: int = 3
    form: str = "softmax"
    mask: str = ""
    dtype: str = "f32"
    transposed: bool = False
    """Whether `k` is [heads, depth, keys]."""
    features: bool = False
    """Whether arrays are [tokens, heads * depth], as layers make them, behind views."""
    rectified: bool = False
    """Whether a relu of the result follows."""
    constant_mask: bool = False
    """Whether the mask is a constant of the program, that of `inputs()`."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every input."""
        h, q, k, d, v = self.heads, self.queries, self.keys, self.depth, self.values
        shapes = {"q": (h, q, d), "k": (h, d, k) if self.transposed else (h, k, d), "v": (h, k, v)}
        if self.features:
            shapes = {"q": (q, h * d), "k": (k, h * d), "v": (k, h * v)}
        if self.mask:
            shapes["mask"] = tuple({"h": h, "q": q, "k": k}[dim] for dim in self.mask)
        return shapes

    def inputs(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return random inputs; a mask leaves out a third, and all of the first row if guarded."""
        random = np.random.default_rng(seed)
        found = {n: random.standard_normal(s).astype("f4") for n, s in self.shapes().items()}
        if self.mask:
            hidden = random.random(found["mask"].shape) < 0.3
            hidden[..., 0] = False
            if self.form == "guarded":
                hidden[..., 0, :] = True
            found["mask"] = np.where(hidden, -np.inf, found["mask"]).astype("f4")
        return found

    def expected(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the result in f64."""
        q, k, v = (inputs[name].astype("f8") for name in "qkv")
        if self.features:
            q, k, v = (x.reshape(len(x), self.heads, -1).swapaxes(0, 1) for x in (q, k, v))
        k = k if self.transposed else k.swapaxes(1, 2)
        scores = q @ k * 0.5
        if self.mask:
            places = tuple(slice(None) if dim in self.mask else None for dim in "hqk")
            scores = scores + inputs["mask"].astype("f8")[places]
        if self.form == "none":
            return self._in_memory(np.maximum(scores, 0) @ v)
        with np.errstate(invalid="ignore"):
            weights = np.exp(
                scores - (scores.max(-1, keepdims=True) if self.form != "plain" else 0)
            )
            weights = weights / weights.sum(-1, keepdims=True)
        return self._in_memory(np.nan_to_num(weights, nan=0.0) @ v)

    def _in_memory(self, result: np.ndarray) -> np.ndarray:
        """Return a result [heads, queries, values] as the program has it."""
        if self.rectified:
            result = np.maximum(result, 0)
        if self.features:
            result = result.swapaxes(0, 1).reshape(self.queries, -1)
        return result

    def text(self) -> str:
        """Return the module."""
        return _Text(self).module()


def _literal(bits: np.ndarray) -> str:
    """Return numbers as MLIR writes their bits."""
    if bits.ndim:
        return f"[{', '.join(map(_literal, bits))}]"
    return f"0x{int(bits):0{2 * bits.itemsize}X}"


class _Text:
    """Writes a program, operation by operation."""

    def __init__(self, program: AttentionProgram) -> None:
        self.program = program
        self.lines: list[str] = []
        self.types: dict[str, str] = {}

    def module(self) -> str:
        p = self.program
        shapes = p.shapes()
        for name, shape in shapes.items():
            self.types[name] = self._type(shape)
        h, q, k = p.heads, p.queries, p.keys
        key = "h, d, k" if p.transposed else "h, k, d"
        query = "h, q, d"
        if p.features:
            query, key = "q, h, d", "k, h, d"
        self._fill("scores", (h, q, k), "0.0")
        heads = [self._by_heads(name) for name in "qk"]
        self._contract("h, q, k, d", (heads[0], query), (heads[1], key), ("scores", "h, q, k"))
        result = self._alloc("x", (h, q, k))
        reads = [("scores", "h, q, k")]
        body = "%half = arith.constant 0.5 : f32\n"
        if p.mask:
            reads.append(("mask", ", ".join(p.mask)))
            body += " %s = arith.mulf %a, %half : f32\n %r = arith.addf %s, %b : f32"
        elif p.form == "none":
            body += " %s = arith.mulf %a, %half : f32\n %z = arith.constant 0.0 : f32\n"
            body += " %r = arith.maximumf %s, %z : f32"
        else:
            body += " %r = arith.mulf %a, %half : f32"
        self._generic("h, q, k", reads, (result, "h, q, k"), body)
        self._softmax()
        returned = "late_out" if p.form == "late" else "o"
        if p.rectified:
            returned = self._relu(returned)
        given = [n for n in shapes if n != "mask" or not p.constant_mask]
        arguments = ", ".join(f'%{n}: {self.types[n]} {{npu.name = "{n}"}}' for n in given)
        constant = self._mask()
        body_text = "\n".join(self.lines)
        type_ = self.types[returned]
        return f"""{constant}
func.func @main({arguments}) -> ({type_} {{npu.name = "out"}}) {{
{body_text}
return %{returned} : {type_}
}}"""

    def _mask(self) -> str:
        """Return the constant that is the mask, if it is one."""
        if not self.program.constant_mask:
            return ""
        values, type_ = self.program.inputs()["mask"], self.types["mask"]
        narrow = NARROW.get(self.program.dtype)
        bits = values.view("u4") if narrow is None else values.astype(narrow).view("u2")
        self.lines.insert(0, f"%mask = memref.get_global @mask : {type_}")
        return f'memref.global "private" constant @mask : {type_} = dense<{_literal(bits)}>'

    def _softmax(self) -> None:
        p = self.program
        h, q, k, v = p.heads, p.queries, p.keys, p.values
        weights = "x"
        exp = "%r = math.exp %a : f32"
        if p.form in ("softmax", "late", "guarded"):
            self._fill("m", (h, q), "0xFF800000")
            fold = "%r = arith.maximumf %a, %out : f32"
            self._generic("h, q, k", [("x", "h, q, k")], ("m", "h, q"), fold, "k")
            body = "%d = arith.subf %a, %b : f32\n %r = math.exp %d : f32"
            reads = [("x", "h, q, k"), ("m", "h, q")]
            self._generic("h, q, k", reads, (self._alloc("e", (h, q, k)), "h, q, k"), body)
            weights = "e"
        elif p.form == "plain":
            self._alloc("e", (h, q, k))
            self._generic("h, q, k", [("x", "h, q, k")], ("e", "h, q, k"), exp)
            weights = "e"
        if p.form != "none":
            self._fill("l", (h, q), "0.0")
            fold = "%r = arith.addf %a, %out : f32"
            self._generic("h, q, k", [("e", "h, q, k")], ("l", "h, q"), fold, "k")
        if p.form == "guarded":
            self._guard()
        elif p.form in ("softmax", "plain"):
            self._alloc("w", (h, q, k))
            reads = [("e", "h, q, k"), ("l", "h, q")]
            self._generic("h, q, k", reads, ("w", "h, q, k"), "%r = arith.divf %a, %b : f32")
        weights = "w" if p.form in ("softmax", "plain", "guarded") else weights
        shape, value, out = (h, q, v), "h, k, v", "h, q, v"
        if p.features:
            shape, value, out = (q, h * v), "k, h, v", "q, h, v"
        self._fill("o", shape, "0.0")
        values, mixed = self._by_heads("v"), self._by_heads("o")
        self._contract("h, q, v, k", (weights, "h, q, k"), (values, value), (mixed, out))
        if p.form == "late":
            late = self._by_heads(self._alloc("late_out", shape))
            reads = [(mixed, out), ("l", "h, q")]
            self._generic("h, q, v", reads, (late, out), "%r = arith.divf %a, %b : f32")

    def _by_heads(self, name: str) -> str:
        """Return an array [token, feature] as [token, head, part of it]."""
        if not self.program.features:
            return name
        tokens, features = (int(n) for n in re.findall(r"(\d+)x", self.types[name]))
        heads = self.program.heads
        view, parts = f"{name}_heads", features // heads
        self.types[view] = self._type((tokens, heads, parts), self._element(name))
        self.lines.append(
            f"%{view} = memref.expand_shape %{name} [[0], [1, 2]] output_shape "
            f"[{tokens}, {heads}, {parts}] : {self.types[name]} into {self.types[view]}"
        )
        return view

    def _relu(self, name: str) -> str:
        """Add a relu of an array; return its result."""
        shape = tuple(int(n) for n in re.findall(r"(\d+)x", self.types[name]))
        dims = ", ".join(f"d{n}" for n in range(len(shape)))
        body = "%z = arith.constant 0.0 : f32\n %r = arith.maximumf %a, %z : f32"
        self._generic(dims, [(name, dims)], (self._alloc("positive", shape), dims), body)
        return "positive"

    def _guard(self) -> None:
        p = self.program
        h, q, k = p.heads, p.queries, p.keys
        lowest = "%i = arith.constant 0xFF800000 : f32\n"
        self._alloc("hidden", (h, q, k), "i1")
        compare = f"{lowest} %r = arith.cmpf oeq, %a, %i : f32"
        self._generic("h, q, k", [("x", "h, q, k")], ("hidden", "h, q, k"), compare)
        self._fill("none", (h, q), "true", "i1")
        fold = "%r = arith.andi %a, %out : i1"
        self._generic("h, q, k", [("hidden", "h, q, k")], ("none", "h, q"), fold, "k")
        self._alloc("w", (h, q, k))
        body = "%z = arith.constant 0.0 : f32\n %d = arith.divf %b, %c : f32\n"
        body += " %r = arith.select %a, %z, %d : f32"
        reads = [("none", "h, q"), ("e", "h, q, k"), ("l", "h, q")]
        self._generic("h, q, k", reads, ("w", "h, q, k"), body)

    # --- operations -------------------------------------------------------------------------------

    def _type(self, shape: tuple[int, ...], element: str = "") -> str:
        return f"memref<{'x'.join(map(str, shape))}x{element or self.program.dtype}>"

    def _alloc(self, name: str, shape: tuple[int, ...], element: str = "") -> str:
        self.types[name] = self._type(shape, element)
        self.lines.append(f"%{name} = memref.alloc() : {self.types[name]}")
        return name

    def _element(self, name: str) -> str:
        return self.types[name].removesuffix(">").rpartition("x")[2]

    def _fill(self, name: str, shape: tuple[int, ...], value: str, element: str = "") -> None:
        self._alloc(name, shape, element)
        own = self._element(name)
        if value.startswith("0x") and own in NARROW:
            value = {"bf16": "0xFF80", "f16": "0xFC00"}[own]
        dims = ", ".join(f"d{n}" for n in range(len(shape)))
        literal = value if own == "i1" else f"{value} : {own}"
        kinds = ", ".join(['"parallel"'] * len(shape))
        self.lines.append(f"""%{name}_start = arith.constant {literal}
linalg.generic {{indexing_maps = [affine_map<({dims}) -> ({dims})>], iterator_types = [{kinds}]}}
    outs(%{name} : {self.types[name]}) {{
^bb0(%out: {own}):
  linalg.yield %{name}_start : {own}
}}""")

    def _contract(self, dims, first, second, output) -> None:
        body = "%p = arith.mulf %a, %b : f32\n %r = arith.addf %out, %p : f32"
        summed = next(d for d in dims.split(", ") if d not in output[1].split(", "))
        self._generic(dims, [first, second], output, body, summed)

    def _generic(self, dims, reads, output, body, summed: str = "") -> None:
        """Write an operation whose f32 body has arguments %a, %b, .. and %out, and makes %r."""
        operands = [*reads, output]
        maps = ", ".join(f"affine_map<({dims}) -> ({index})>" for _, index in operands)
        kinds = ", ".join('"reduction"' if d == summed else '"parallel"' for d in dims.split(", "))
        names = [*"abc"[: len(reads)], "out"]
        arguments, casts = [], []
        for name, (array, _) in zip(names, operands, strict=True):
            element = self._element(array)
            narrow = element in ("bf16", "f16")
            arguments.append(f"%{name}{'_' if narrow else ''}: {element}")
            if narrow and (name != "out" or summed):
                casts.append(f"%{name} = arith.extf %{name}_ : {element} to f32")
        own = self._element(output[0])
        result = "%r"
        if own in ("bf16", "f16"):
            body += f"\n %t = arith.truncf %r : f32 to {own}"
            result = "%t"
        inputs = ", ".join(f"%{array}" for array, _ in reads)
        types = ", ".join(self.types[array] for array, _ in reads)
        self.lines.append(f"""linalg.generic
    {{indexing_maps = [{maps}], iterator_types = [{kinds}]}}
    ins({inputs} : {types}) outs(%{output[0]} : {self.types[output[0]]}) {{
^bb0({", ".join(arguments)}):
  {" ".join(c + chr(10) for c in casts)}
  {body}
  linalg.yield {result} : {own}
}}""")
