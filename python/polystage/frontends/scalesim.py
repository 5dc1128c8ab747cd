"""Topologies of SCALE-Sim: a CSV file with a convolution per line, to be compared with that tool.

SCALE-Sim (github.com/scalesim-project/SCALE-Sim, MIT) sees a convolution as the matrix product that
`im2col` makes of it, M x K by K x N for M output positions, windows of K elements and N filters.
There is no padding: a layer has the positions that its window reaches within the input, and layers
are independent of each other. So is the program made here: a contraction per line, whose operands
are inputs, with the filters as the operand that the array holds.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polystage.errors import FrontendError
from polystage.frontends.mlir import load_mlir
from polystage.frontends.model import ImportedModel

COLUMNS = (
    "input_height",
    "input_width",
    "filter_height",
    "filter_width",
    "channels",
    "filters",
    "stride",
)
"""What stands after the name of a layer; further columns are remarks, but for sparsity."""


@dataclass(frozen=True)
class ConvolutionLayer:
    """A line of a topology."""

    name: str
    input_height: int
    input_width: int
    filter_height: int
    filter_width: int
    channels: int
    filters: int
    stride: int

    @property
    def positions(self) -> int:
        """The output positions, M: where the window fits, rounded up as SCALE-Sim does.

        >>> ConvolutionLayer("Conv1", 224, 224, 7, 7, 3, 64, 2).positions == 110 * 110
        True
        """
        height = _positions(self.input_height, self.filter_height, self.stride)
        return height * _positions(self.input_width, self.filter_width, self.stride)

    @property
    def window(self) -> int:
        """The elements that one output is the sum of, K."""
        return self.filter_height * self.filter_width * self.channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates, M * K * N."""
        return self.positions * self.window * self.filters


def _positions(extent: int, window: int, stride: int) -> int:
    return -(-(extent - window + stride) // stride)


def read_topology(path: str | Path) -> list[ConvolutionLayer]:
    """Return the layers of a topology file.

    A layer with "DP" in its name is depthwise, as SCALE-Sim has it: a layer for every channel.

    Raises: FrontendError that names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FrontendError(f"no such file: {path}") from None
    except UnicodeDecodeError:
        raise FrontendError(f"{path}: not a text file", help=_FORMAT) from None
    except OSError as error:
        raise FrontendError(f"{path}: {error.strerror}") from None
    layers = [layer for number, row in _rows(lines) for layer in _layers(row, f"{path}:{number}")]
    if not layers:
        raise FrontendError(f"{path}: no layers", help=_FORMAT)
    return layers


_FORMAT = (
    "a topology of SCALE-Sim has a header, then per line a name, input height and width, filter "
    "height and width, channels, filters and stride"
)


def _rows(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of the lines after the header that are not empty."""
    for number, row in enumerate(csv.reader(lines), start=1):
        cells = [cell.strip() for cell in row]
        if number > 1 and any(cells):
            yield number, cells


def _layers(cells: list[str], where: str) -> Iterator[ConvolutionLayer]:
    name, values, rest = cells[0], cells[1 : 1 + len(COLUMNS)], cells[1 + len(COLUMNS) :]
    if len(values) < len(COLUMNS):
        found = f"{len(cells)} columns, but a layer has {1 + len(COLUMNS)}"
        raise FrontendError(f"{where}: {found}", help=_FORMAT)
    for column, text in zip(COLUMNS, values, strict=True):
        if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
            column = column.replace("_", " ")
            message = f"{where}: '{text}' is no {column}, a whole number of at least 1"
            raise FrontendError(message, help=_FORMAT)
    if any(re.fullmatch(r"\d+:\d+", text) and len(set(text.split(":"))) > 1 for text in rest):
        raise FrontendError(
            f"{where}: layer '{name}' is sparse, but only dense layers can be compiled",
            help="remove the ratio in the last column",
        )
    layer = ConvolutionLayer(name, *map(int, values))
    for side in ("height", "width"):
        extent, window = getattr(layer, f"input_{side}"), getattr(layer, f"filter_{side}")
        if window > extent:
            raise FrontendError(
                f"{where}: the filter of layer '{name}' has {side} {window}, but its input "
                f"{extent}, and there is no padding",
                help="write the padded size of the input",
            )
    if "DP" not in name:
        yield layer
        return
    for channel in range(layer.channels):
        yield replace(layer, name=f"{name}Channel_{channel}", channels=1)


def load_scalesim(source: str | Path | Iterable[ConvolutionLayer], name: str = "") -> ImportedModel:
    """Import a topology file, or layers, as one program.

    Layer L has the inputs `L.filters`, f32[K, N], and `L.windows`, f32[K, M], and the output `L`,
    f32[N, M]: the window lies along the partitions of both, and the filters are stationary.

    Raises: FrontendError.
    """
    if isinstance(source, str | Path):
        layers, name = read_topology(source), name or str(source)
    else:
        layers, name = list(source), name or "topology"
    return load_mlir(_program(_named_apart(layers)).encode(), name)


def _named_apart(layers: Iterable[ConvolutionLayer]) -> list[ConvolutionLayer]:
    """Return the layers with names that no two share."""
    count: dict[str, int] = {}
    named: list[ConvolutionLayer] = []
    for layer in layers:
        name = re.sub(r'["\\]', "_", layer.name) or "layer"
        count[name] = count.get(name, 0) + 1
        named.append(replace(layer, name=name if count[name] == 1 else f"{name}#{count[name]}"))
    return named


_MAPS = ", ".join(f"affine_map<(n, m, k) -> ({dims})>" for dims in ("k, n", "k, m", "n, m"))
_KINDS = '["parallel", "parallel", "reduction"]'


def _program(layers: Sequence[ConvolutionLayer]) -> str:
    """Return the program as MLIR text: linalg on tensors."""
    arguments: list[str] = []
    results: list[str] = []
    body: list[str] = []
    for i, layer in enumerate(layers):
        k, m, n = layer.window, layer.positions, layer.filters
        filters, windows, output = (
            f"tensor<{rows}x{columns}xf32>" for rows, columns in ((k, n), (k, m), (n, m))
        )
        for operand, type_ in (("filters", filters), ("windows", windows)):
            arguments.append(f'%{operand}{i}: {type_} {{npu.name = "{layer.name}.{operand}"}}')
        results.append(f'{output} {{npu.name = "{layer.name}"}}')
        body += [
            f"  %empty{i} = tensor.empty() : {output}",
            f"  %start{i} = linalg.fill ins(%zero : f32) outs(%empty{i} : {output}) -> {output}",
            f"  %sum{i} = linalg.generic {{indexing_maps = [{_MAPS}], iterator_types = {_KINDS}}}",
            f"    ins(%filters{i}, %windows{i} : {filters}, {windows})",
            f"    outs(%start{i} : {output}) attrs = {{npu.stationary = 0 : i64}} {{",
            "  ^bb0(%w: f32, %x: f32, %sum: f32):",
            "    %p = arith.mulf %w, %x : f32",
            "    %r = arith.addf %sum, %p : f32",
            "    linalg.yield %r : f32",
            f'  }} -> {output} loc("{layer.name}")',
        ]
    values = ", ".join(f"%sum{i}" for i in range(len(layers)))
    types = ", ".join(result.partition(" {")[0] for result in results)
    return "\n".join(
        [
            f"func.func @main({', '.join(arguments)}) -> ({', '.join(results)}) {{",
            "  %zero = arith.constant 0.0 : f32",
            *body,
            f"  return {values} : {types}",
            "}\n",
        ]
    )
