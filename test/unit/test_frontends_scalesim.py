"""Topologies of SCALE-Sim: what a line means, what is refused, and that the products are right."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.errors import FrontendError
from polystage.frontends import load, load_scalesim
from polystage.frontends.scalesim import ConvolutionLayer, read_topology
from polystage.pipeline import compile_module
from polystage.simulator import simulate

HEADER = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter,"
FORMAT = (
    "a topology of SCALE-Sim has a header, then per line a name, input height and width, filter "
    "height and width, channels, filters and stride"
)
SMALL = ConvolutionLayer("conv", 6, 5, 3, 2, 4, 7, 2)


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "net.csv"
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    return path


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(FrontendError) as caught:
        read_topology(path)
    return caught.value.message.removeprefix(str(path)), caught.value.help


def test_a_line_is_a_layer(tmp_path: Path) -> None:
    """Blanks around a value, empty lines and columns of remarks do not matter."""
    path = written(
        tmp_path, ",,,,", "", "Conv1 , 224,224 ,7,7,3,64,2,,,110,110,12100", "A,1,1,1,1,2,3,1"
    )
    assert read_topology(path) == [
        ConvolutionLayer("Conv1", 224, 224, 7, 7, 3, 64, 2),
        ConvolutionLayer("A", 1, 1, 1, 1, 2, 3, 1),
    ]


def test_a_dense_ratio_is_a_remark(tmp_path: Path) -> None:
    assert len(read_topology(written(tmp_path, "A,4,4,1,1,2,3,1,2:2,"))) == 1


def test_depthwise_is_a_layer_for_every_channel(tmp_path: Path) -> None:
    layers = read_topology(written(tmp_path, "DP1,4,4,3,3,2,1,1,"))
    assert [(x.name, x.channels) for x in layers] == [("DP1Channel_0", 1), ("DP1Channel_1", 1)]


@given(*[st.integers(1, 9)] * 3)
def test_positions_are_those_of_the_tool(beyond: int, window: int, stride: int) -> None:
    """No padding; where a stride does not divide what is left, a last window sticks out."""
    layer = ConvolutionLayer("x", window + beyond, window, window, window, 1, 1, stride)
    assert layer.positions == len(range(0, beyond + stride, stride))


@pytest.mark.parametrize(
    ("line", "message", "remedy"),
    [
        ("A,4,4,1,1,2,3", ":2: 7 columns, but a layer has 8", FORMAT),
        (
            "A,4,4,1,1,two,3,1",
            ":2: 'two' is no channels, a whole number of at least 1",
            FORMAT,
        ),
        ("A,4,4,1,1,2,3,0", ":2: '0' is no stride, a whole number of at least 1", FORMAT),
        (
            "A,4,4,1,1,2,3,1,1:2",
            ":2: layer 'A' is sparse, but only dense layers can be compiled",
            "remove the ratio in the last column",
        ),
        (
            "A,4,4,1,5,2,3,1",
            ":2: the filter of layer 'A' has width 5, but its input 4, and there is no padding",
            "write the padded size of the input",
        ),
        ("", ": no layers", FORMAT),
    ],
)
def test_refused(tmp_path: Path, line: str, message: str, remedy: str) -> None:
    assert refusal(written(tmp_path, line)) == (message, remedy)


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(FrontendError, match="no such file"):
        read_topology(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert refusal(tmp_path / "binary.csv") == (": not a text file", FORMAT)
    with pytest.raises(FrontendError, match=r"Is a directory"):
        read_topology(tmp_path)


def test_load_by_the_suffix(tmp_path: Path) -> None:
    path = written(tmp_path, "A,6,5,3,2,4,7,2", "A,1,1,1,1,2,3,1")
    model = load(path)
    assert model.name == "net"
    assert [(x.name, x.shape) for x in model.inputs] == [
        ("A.filters", (24, 7)),
        ("A.windows", (24, 9)),
        ("A#2.filters", (2, 3)),
        ("A#2.windows", (2, 1)),
    ]
    assert [(x.name, x.shape) for x in model.outputs] == [("A", (7, 9)), ("A#2", (3, 1))]
    with pytest.raises(FrontendError, match="the shapes of a topology are fixed"):
        load(path, {"n": 1})
    with pytest.raises(FrontendError):
        load(path, batch=2)


@pytest.mark.parametrize("target", ["scalesim_ws", "scalesim_os", "tiny"])
def test_the_products_are_right(target: str) -> None:
    layers = [SMALL, ConvolutionLayer("wide", 9, 9, 3, 3, 5, 40, 1)]
    model = load_scalesim(layers)
    random = np.random.default_rng(0)
    inputs = {x.name: random.standard_normal(x.shape).astype(x.dtype) for x in model.inputs}
    outputs = simulate(compile_module(model.module, target=target, dtype="f32"), inputs).outputs
    for layer in layers:
        filters, windows = inputs[f"{layer.name}.filters"], inputs[f"{layer.name}.windows"]
        assert filters.shape == (layer.window, layer.filters)
        np.testing.assert_allclose(outputs[layer.name], filters.T @ windows, rtol=1e-4, atol=1e-4)
    expected = model.run_reference(inputs)
    np.testing.assert_allclose(outputs["conv"], expected["conv"], rtol=1e-4, atol=1e-4)


def test_the_filters_are_stationary_even_where_they_are_one() -> None:
    """What stays in the array is the layer's decision, not that of the smaller operand."""
    layer = ConvolutionLayer("one", 40, 40, 1, 1, 8, 1, 1)
    program = compile_module(load_scalesim([layer]).module, target="scalesim_ws")
    assert simulate(program, timing_only=True).totals.instructions["npu.matmul"] == 1
