"""Sweeps over the sizes of a machine: what can be asked, what each point is, what comes of it."""

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from polystage.errors import PolystageError
from polystage.explore import AXES, Options, Outcome, Point, parse_axis, sweep
from polystage.explore.charts import picture, powers, steps
from polystage.explore.page import sweep_page
from polystage.explore.points import grid, one_by_one
from polystage.explore.table import failures, sweep_document, sweep_table
from polystage.machine import Target

TINY = Target.load("tiny")


def refusal(text: str) -> str:
    with pytest.raises(PolystageError) as error:
        parse_axis(text, TINY)
    return str(error.value)


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("array:4,8x16", ((4, 4), (8, 16))),
            ("sbuf:98304,6MiB, 1.5 KiB", (98304.0, 6 * 2.0**20, 1536.0)),
            ("dram:205,102.5GB/s", (205.0, 102.5)),
            ("cores:1,4", (1, 4)),
        ],
    )
    def test_values(self, text: str, values: tuple) -> None:
        assert parse_axis(text, TINY)[1] == values

    def test_defaults_lie_around_the_target(self) -> None:
        assert parse_axis("array", TINY)[1] == ((2, 2), (4, 4), (8, 8), (16, 16), (32, 32))
        assert TINY.sbuf.bytes in parse_axis("sbuf", TINY)[1]
        assert TINY.dram.bytes_per_ns in parse_axis("dram", TINY)[1]
        assert parse_axis("cores", TINY)[1] == (1, 2, 4, 8)

    def test_unknown_size(self) -> None:
        assert refusal("lanes:3") == (
            "--over: there is no size 'lanes' to sweep\nhelp: sizes are array, sbuf, dram, cores"
        )

    @pytest.mark.parametrize(
        ("text", "value", "wanted"),
        [
            ("array:0", "0", "rows, or rows and columns such as 128x64"),
            ("array:8x", "8x", "rows, or rows and columns such as 128x64"),
            ("sbuf:6MB", "6MB", "bytes such as 6MiB or 98304"),
            ("sbuf:0", "0", "bytes such as 6MiB or 98304"),
            ("dram:fast", "fast", "GB/s such as 205"),
            ("cores:1.5", "1.5", "a number such as 4"),
            ("cores:", "", "a number such as 4"),
        ],
    )
    def test_no_value(self, text: str, value: str, wanted: str) -> None:
        axis = text.partition(":")[0]
        assert refusal(text) == (f"--over: '{value}' is no value of '{axis}'\nhelp: write {wanted}")

    def test_value_twice(self) -> None:
        assert refusal("cores:2,2") == "--over: 'cores:2,2' has a value twice"


class TestPoints:
    def target(self, **values: object) -> Target:
        return Point("", values).target(TINY)

    def test_smaller_array_leaves_the_rest(self) -> None:
        target = self.target(array=(4, 2))
        assert (target.tensor.rows, target.tensor.columns) == (4, 2)
        assert (target.sbuf, target.psum, target.vector) == (TINY.sbuf, TINY.psum, TINY.vector)

    def test_larger_array_has_as_many_partitions(self) -> None:
        target = self.target(array=(16, 32))
        assert target.sbuf.partitions == 16
        assert target.sbuf.bytes == TINY.sbuf.bytes
        assert target.psum.partitions == 32
        assert target.vector.lanes == 2 * TINY.vector.lanes

    def test_flat_scratchpad_has_no_partitions_to_follow(self) -> None:
        flat = TINY.override(
            {"sbuf.partitions": 1, "psum.banks": 0, "sbuf.partition_start_granule": 1}
        )
        target = Point("", {"array": (16, 16)}).target(flat)
        assert target.sbuf == flat.sbuf

    def test_bandwidth_of_the_device_follows_that_of_the_core(self) -> None:
        target = self.target(dram=2.0)
        share = TINY.device.dram_bytes_per_ns / TINY.dram.bytes_per_ns
        assert target.dram.bytes_per_ns == 2.0
        assert target.device.dram_bytes_per_ns == 2.0 * share

    def test_cores_share_the_bandwidth_of_the_device(self) -> None:
        target = self.target(cores=8)
        assert target.device.cores == 8
        assert target.device.dram_bytes_per_ns == TINY.device.dram_bytes_per_ns

    def test_capacity_after_partitions(self) -> None:
        target = self.target(sbuf=float(2**16), array=(16, 16))
        assert (target.sbuf.partitions, target.sbuf.bytes) == (16, 2**16)

    def test_one_by_one_and_grid(self) -> None:
        axes = [parse_axis(text, TINY) for text in ("dram:1,2", "cores:1,2,4")]
        assert [p.text() for p in one_by_one(axes)] == [
            "dram 1",
            "dram 2",
            "cores 1",
            "cores 2",
            "cores 4",
        ]
        found = list(grid(axes))
        assert len(found) == 6
        assert found[1].text() == "dram 1, cores 2"
        assert {p.axis for p in found} == {"cores"}


def small_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(24, 32)), "b": rng.normal(size=(32, 16))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "b"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", 1, [1, 40, 24])],
        [helper.make_tensor_value_info("y", 1, [1, 40, 16])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("explore") / "small.onnx"
    onnx.save(small_model(), file)
    return str(file)


@pytest.fixture(scope="module")
def outcomes(path: str) -> list[Outcome]:
    texts = ("array:4,8,16", "sbuf:8,32KiB", "dram:2,8,32", "cores:1,2,4")
    axes = [parse_axis(text, TINY) for text in texts]
    return sweep(Options(path, target="tiny", dtype="bf16", batch=2), list(one_by_one(axes)))


def rates(outcomes: list[Outcome], axis: str) -> list[float]:
    return [o.figures.inferences_per_s for o in outcomes if o.point.axis == axis and o.figures]


class TestSweep:
    def test_no_point_is_dropped(self, outcomes: list[Outcome]) -> None:
        assert len(outcomes) == 11
        assert all(bool(o.figures) != bool(o.reason) for o in outcomes)

    def test_a_point_that_cannot_be_compiled_says_why(self, outcomes: list[Outcome]) -> None:
        found = {o.point.text(): o.reason for o in outcomes if o.reason}
        assert list(found) == ["sbuf 8 B"]
        assert "-to-npu: " in found["sbuf 8 B"] or "-scratchpad: " in found["sbuf 8 B"]

    def test_more_of_a_size_is_not_slower(self, outcomes: list[Outcome]) -> None:
        for axis in ("dram", "cores"):
            found = rates(outcomes, axis)
            assert found == sorted(found) and found[0] < found[-1]

    def test_the_target_itself_is_on_every_axis(self, outcomes: list[Outcome]) -> None:
        own = ("array 8x8", "sbuf 32 KiB", "dram 8", "cores 1")
        found = {
            o.figures.inferences_per_s for o in outcomes if o.figures and o.point.text() in own
        }
        assert len(found) == 1

    def test_bounds_are_bounds(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if figures := outcome.figures:
                rate = figures.inferences_per_s
                assert rate <= figures.compute_bound_per_s * (1 + 1e-9)
                assert rate <= figures.dram_bound_per_s * (1 + 1e-9)
                assert 0 < figures.utilization <= 1
                assert max(figures.busy.values()) <= 1 + 1e-9
                assert math.isclose(
                    1e12 / sum(figures.energy_pj_by_level.values()), figures.inferences_per_j
                )

    def test_a_program_of_its_own(self, path: str) -> None:
        """With `recompile`, a point is what a run on a target with its values is."""
        (swept,) = sweep(
            Options(path, target="tiny", recompile=True), [Point("dram", {"dram": 2.0})]
        )
        share = TINY.device.dram_bytes_per_ns / TINY.dram.bytes_per_ns
        settings = ("dram.bytes_per_ns=2", f"device.dram_bytes_per_ns={2 * share}")
        (alone,) = sweep(
            Options(path, target="tiny", settings=settings), [Point("cores", {"cores": 1})]
        )
        assert swept.figures and alone.figures
        assert swept.figures.latency_us == alone.figures.latency_us

    def test_inferences_in_flight_do_not_lower_the_rate(self, path: str) -> None:
        points = [Point("cores", {"cores": 1})]
        one, four = (
            sweep(Options(path, target="tiny", inferences=n), points)[0].figures for n in (1, 4)
        )
        assert one and four
        assert four.inferences_per_s >= one.inferences_per_s * (1 - 1e-9)

    def test_several_processes(self, path: str, outcomes: list[Outcome]) -> None:
        pytest.importorskip("joblib")
        axes = [parse_axis("array:4,8", TINY)]
        options = Options(path, target="tiny", dtype="bf16", batch=2, jobs=2)
        assert sweep(options, list(one_by_one(axes))) == outcomes[:2]

    def test_progress(self, path: str) -> None:
        seen: list[tuple[int, int, str]] = []
        points = list(one_by_one([parse_axis("array:4,8", TINY)]))
        sweep(Options(path, target="tiny"), points, lambda *args: seen.append(args))
        assert seen == [(0, 2, "array 4x4"), (1, 2, "array 8x8")]


class TestOutput:
    def test_picture_is_xml_with_a_panel_per_axis_and_figure(self, outcomes) -> None:
        root = ElementTree.fromstring(picture("a < b", outcomes, {"array": 8.0}))
        panels = [g for g in root if g.tag.endswith("}g")]
        assert len(panels) == 4 * 3
        dots = [e for e in root.iter() if e.tag.endswith("}circle")]
        assert len(dots) == 3 * sum(o.figures is not None for o in outcomes)
        crosses = [e for g in panels for e in g.iter() if e.get("class") == "failed"]
        assert len(crosses) == 3 * sum(o.figures is None for o in outcomes)

    def test_picture_of_a_grid_has_a_curve_for_each_combination(self, path: str) -> None:
        axes = [parse_axis(text, TINY) for text in ("dram:2,8", "cores:1,2")]
        found = sweep(Options(path, target="tiny"), list(grid(axes)))
        root = ElementTree.fromstring(picture("grid", found, {}))
        assert len([e for e in root.iter() if e.get("class") == "curve"]) == 2 * 3

    def test_table_and_failures(self, outcomes) -> None:
        assert sweep_table("t", outcomes).row_count == len(outcomes)
        assert len(failures(outcomes)) == sum(o.figures is None for o in outcomes)

    def test_page_and_document(self, outcomes) -> None:
        document = sweep_document("small", "tiny", outcomes)
        assert [p["values"] for p in document["points"][:2]] == [{"array": "4x4"}, {"array": "8x8"}]
        page = sweep_page("small & tiny", picture("small", outcomes, {}), document)
        assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
        assert all(text in page for text in ("small &amp; tiny", "array 4x4"))

    def test_ticks(self) -> None:
        assert powers(300, 6000) == [500.0, 1000.0, 2000.0, 5000.0]
        assert steps(0.26) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25])
        assert set(AXES) == {"array", "sbuf", "dram", "cores"}
