import json
import math

import ml_dtypes
import numpy as np
import pytest

from polystage.errors import PolystageError
from polystage.report.check import compare, tolerance
from polystage.report.inputs import load_inputs, random_inputs
from polystage.report.table import layer_table
from polystage.tools.output import write_atomically


class Spec:
    def __init__(self, name, shape, dtype):
        self.name, self.shape, self.dtype = name, shape, np.dtype(dtype)


SPECS = [
    Spec("x", (2, 3), np.float32),
    Spec("ids", (4,), np.int64),
    Spec("half", (2,), ml_dtypes.bfloat16),
]


class TestCheck:
    def test_errors_are_relative_to_the_largest_magnitude(self):
        check = compare({"y": np.array([1.0, 10.5])}, {"y": np.array([1.0, 10.0])}, "ref", 1e-3)
        assert check.max_abs_error == 0.5
        assert check.max_rel_error == 0.05
        assert not check.passed

    def test_the_worst_output_counts(self):
        expected = {"a": np.array([100.0]), "b": np.array([1.0])}
        check = compare({"a": np.array([101.0]), "b": np.array([1.5])}, expected, "ref", 1)
        assert (check.max_abs_error, check.max_rel_error) == (1.0, 0.5)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_not_finite_on_both_sides_is_equal(self, value):
        array = {"y": np.array([1.0, value])}
        assert compare(array, array, "ref", 0.0).passed

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_not_finite_on_one_side_fails(self, value):
        check = compare({"y": np.array([value])}, {"y": np.array([1.0])}, "ref", 1e9)
        assert not check.passed

    def test_zero_expected(self):
        zero, one = {"y": np.zeros(2)}, {"y": np.ones(2)}
        assert compare(zero, zero, "ref", 0.0).passed
        assert not compare(one, zero, "ref", 1e9).passed

    def test_integers_and_truth_values(self):
        expected = {"y": np.array([True, False]), "z": np.array([7, 2**40])}
        assert compare(expected, expected, "ref", 0.0).passed

    def test_invalid_shape(self):
        with pytest.raises(PolystageError, match=r"output 'y' of the reference has shape \(2,\)"):
            compare({"y": np.zeros(3)}, {"y": np.zeros(2)}, "ref", 0.0)

    def test_tolerance_grows_with_depth_and_roundoff(self):
        assert tolerance("f32", 1000) == 1e-3
        assert tolerance("bf16", 100) == 2 * 2**-8 * 10
        assert tolerance("f16", 100) == 2 * 2**-11 * 10
        assert tolerance("f8", 16) == 2 * 2**-4 * 4


class TestInputs:
    def test_random_ones_depend_on_the_seed_alone(self):
        first, again, other = (random_inputs(SPECS, seed) for seed in (1, 1, 2))
        assert all((first[name] == again[name]).all() for name in first)
        assert (first["x"] != other["x"]).any()

    def test_random_ones_have_shape_and_type(self):
        arrays = random_inputs(SPECS, 0)
        assert [(a.shape, a.dtype) for a in arrays.values()] == [(s.shape, s.dtype) for s in SPECS]
        assert set(np.unique(arrays["ids"])) <= {0, 1}

    def save(self, tmp_path, **changes):
        arrays = {name: array.astype(np.float32) for name, array in random_inputs(SPECS, 0).items()}
        arrays["ids"] = arrays["ids"].astype(np.int32)
        arrays |= changes
        path = tmp_path / "in.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return str(path)

    def test_from_a_file(self, tmp_path):
        arrays = load_inputs(self.save(tmp_path), SPECS)
        assert [a.dtype for a in arrays.values()] == [spec.dtype for spec in SPECS]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": None}, "input 'x' is missing\nhelp: it is float32 of shape (2, 3)"),
            ({"z": np.zeros(1)}, "the model has no input 'z'\nhelp: inputs: x, ids, half"),
            (
                {"x": np.zeros((3, 2), np.float32)},
                "input 'x' has shape (3, 2), but the model takes (2, 3)",
            ),
            ({"ids": np.zeros(4)}, "input 'ids' is float64, but the model takes int64"),
        ],
    )
    def test_invalid_files(self, tmp_path, changes, message):
        path = self.save(tmp_path, **changes)
        with pytest.raises(PolystageError) as error:
            load_inputs(path, SPECS)
        assert str(error.value) == f"{path}: {message}"

    def test_invalid_format(self, tmp_path):
        path = tmp_path / "in.npz"
        path.write_text("not arrays")
        with pytest.raises(PolystageError, match=r"in\.npz: not an \.npz file of arrays"):
            load_inputs(str(path), SPECS)
        with pytest.raises(PolystageError, match=r"cannot open 'no\.npz': no such file"):
            load_inputs("no.npz", SPECS)


class TestOutput:
    def test_is_complete_or_not_there(self, tmp_path):
        path = tmp_path / "out.json"
        write_atomically(str(path), json.dumps({"a": 1}))
        assert json.loads(path.read_text()) == {"a": 1}
        assert list(tmp_path.iterdir()) == [path]

    def test_invalid_folder(self, tmp_path):
        with pytest.raises(PolystageError, match=r"cannot write '.*': No such file or directory"):
            write_atomically(str(tmp_path / "no" / "out.json"), "")


def test_a_narrow_terminal_shows_fewer_columns():
    figures = dict.fromkeys(
        [
            "latency_us",
            "latency_bound_us",
            "utilization",
            "utilization_bound",
            "dram_read_bytes",
            "dram_write_bytes",
            "compulsory_bytes",
            "onchip_copy_bytes",
            "offchip_copy_bytes",
            "energy_pj",
            "energy_bound_pj",
        ],
        1.0,
    )
    figures["losses_us"] = [1.0] * 8
    report = {"model": "m", "target": "t", "layers": [], "totals": figures}
    assert len(layer_table(report, 160).columns) == 12
    assert len(layer_table(report, 80).columns) == 8
