"""`polystage.machine.Target`: presets, files, overrides, and every message word for word."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.errors import TargetError
from polystage.machine import Target, describe_fields, find_field, parse_settings
from polystage.machine.reference import preset_notes, targets_page
from polystage.machine.schema import FieldInfo
from polystage.machine.target import PRESETS

ROOT = Path(__file__).parents[2]
PRESET_NAMES = "flat, inferentia1, neuroncore_v2, scalesim_os, scalesim_ws, tiny"
TINY = (PRESETS / "tiny.toml").read_text(encoding="utf-8")


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(TargetError) as caught:
        Target.load(path)
    return caught.value.message.removeprefix(f"{path}: "), caught.value.help


def edited(tmp_path: Path, pattern: str, replacement: str) -> Path:
    text, count = re.subn(pattern, replacement, TINY, count=1, flags=re.MULTILINE)
    assert count == 1
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- presets ------------------------------------------------------------------------------------


def test_presets() -> None:
    assert ", ".join(Target.presets()) == PRESET_NAMES
    for name in Target.presets():
        assert Target.load(name).name == name


def test_neuroncore_v2_documented_totals() -> None:
    target = Target.load("neuroncore_v2")
    assert target.sbuf.bytes == 24 * 2**20
    assert target.psum.bytes == 2 * 2**20
    assert target.psum.bytes_per_partition == 16 * 2**10
    assert 2 * target.tensor.macs_per_ns("bf16") == pytest.approx(91750.4)
    assert 2 * target.tensor.macs_per_ns("f32") == pytest.approx(91750.4 / 4)
    assert target.dma.bytes_per_ns == pytest.approx(16 * 27 * 2**30 / 1e9)
    assert target.dram.bytes_per_ns == 820 / 2
    assert (target.device.cores, target.device.dram_bytes_per_ns) == (2, 820)


def test_inferentia1_documented_totals() -> None:
    target = Target.load("inferentia1")
    assert 4 * 2 * target.tensor.macs_per_ns("bf16") / 1000 == pytest.approx(64, rel=0.03)
    assert 4 * 2 * target.tensor.macs_per_ns("i8") / 1000 == pytest.approx(128, rel=0.03)
    assert 4 * target.dram.bytes == 8 * 2**30
    assert 4 * target.dram.bytes_per_ns == pytest.approx(50 * 2**30 / 1e9)
    assert target.device.cores == 4
    assert target.device.dram_bytes_per_ns == pytest.approx(50 * 2**30 / 1e9)


@pytest.mark.parametrize("name", Target.presets())
def test_every_value_has_a_source(name: str) -> None:
    target, notes = Target.load(name), preset_notes(name)
    keys = set(target.values()) - {"name", "description", "assumptions"}
    assert keys == set(notes)
    for key in keys:
        words = ("assumed", "fitted", "invented" if name.startswith("scalesim") else "assumed")
        guessed = notes[key].startswith(words)
        invented = name in ("flat", "tiny") and key != "default_dtype"
        assert target.is_assumed(key) == (guessed or invented), key


def test_every_field_is_documented() -> None:
    for info in describe_fields():
        assert info.doc, info.key
        assert info.doc.endswith("."), info.key


def test_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    assert page == targets_page(), "run: python -m polystage.tools.docs"


@pytest.mark.parametrize(
    ("partitions", "starts"),
    [
        (128, [0]),
        (65, [0]),
        (64, [0, 64]),
        (33, [0, 64]),
        (32, [0, 32, 64, 96]),
        (1, [0, 32, 64, 96]),
    ],
)
def test_legal_starts(partitions: int, starts: list[int]) -> None:
    assert list(Target.load("neuroncore_v2").sbuf.legal_starts(partitions)) == starts


def test_targets_are_values() -> None:
    assert Target.load("tiny") == Target.load("tiny")
    assert hash(Target.load("tiny")) == hash(Target.load("tiny"))
    assert Target.from_tree(Target.load("tiny").to_tree(), "x") == Target.load("tiny")
    with pytest.raises(AttributeError):
        Target.load("tiny").name = "other"  # type: ignore[misc]


# --- overrides ----------------------------------------------------------------------------------


def test_override_in_the_type_of_the_field() -> None:
    target = Target.load(
        "tiny",
        {
            "sbuf.bytes_per_partition": "0x800",
            "dram.bytes_per_ns": "4",
            "tensor.background_load": "false",
            "psum.exclusive_engines": "vector, scalar",
            "default_dtype": "bf16",
            "queues": 1,
        },
    )
    assert target.sbuf.bytes_per_partition == 2048
    assert isinstance(target.dram.bytes_per_ns, float) and target.dram.bytes_per_ns == 4
    assert target.tensor.background_load is False
    assert target.psum.exclusive_engines == ("vector", "scalar")
    assert target.default_dtype == "bf16"
    assert target.dma.queues == 1


def test_override_several_values_that_depend_on_each_other() -> None:
    target = Target.load("tiny", {"tensor.rows": "16", "sbuf.partitions": "16"})
    assert target.tensor.rows == 16


@given(st.integers(1, 2**40))
def test_override_round_trip(size: int) -> None:
    target = Target.load("tiny").override({"sbuf.bytes_per_partition": str(size)})
    assert target.sbuf.bytes_per_partition == size


def override_refusal(key: str, value: str) -> tuple[str, str]:
    with pytest.raises(TargetError) as caught:
        Target.load("tiny", {key: value})
    return caught.value.message, caught.value.help


@pytest.mark.parametrize(
    ("key", "value", "message", "remedy"),
    [
        (
            "sbuf.bytes_per_partition",
            "-5",
            "--set: 'sbuf.bytes_per_partition' is -5, but must be at least 1",
            "sbuf.bytes_per_partition (bytes): Capacity of one partition.",
        ),
        (
            "sbuf.partitions",
            "many",
            "--set: 'sbuf.partitions' is \"many\", but must be an integer",
            "sbuf.partitions (partitions): Partitions; dimension 0 of an on-chip memref lies "
            "across them. 1 is a flat scratchpad, which holds the accumulators, too.",
        ),
        (
            "sbuf.partitions",
            "8.5",
            "--set: 'sbuf.partitions' is 8.5, but must be an integer",
            "sbuf.partitions (partitions): Partitions; dimension 0 of an on-chip memref lies "
            "across them. 1 is a flat scratchpad, which holds the accumulators, too.",
        ),
        (
            "tensor.clock_ghz",
            "0",
            "--set: 'tensor.clock_ghz' is 0, but must be more than 0",
            "tensor.clock_ghz (GHz): Clock of the array.",
        ),
        (
            "energy.static_w",
            "nan",
            "--set: 'energy.static_w' is nan, but must be at least 0",
            "energy.static_w (W): Power that is drawn whether anything happens or not.",
        ),
        (
            "tensor.background_load",
            "maybe",
            "--set: 'tensor.background_load' is \"maybe\", but must be true or false",
            "tensor.background_load: Whether the next stationary operand loads while the current "
            "matmul runs.",
        ),
        (
            "sbuf.bytes_per_partitoin",
            "1",
            "--set: unknown key 'sbuf.bytes_per_partitoin'",
            "did you mean 'sbuf.bytes_per_partition'",
        ),
        ("xyz", "1", "--set: unknown key 'xyz'", "docs/targets.md lists them"),
        (
            "partitions",
            "1",
            "--set: key 'partitions' is ambiguous",
            "write one of 'sbuf.partitions', 'psum.partitions'",
        ),
    ],
)
def test_override_refused(key: str, value: str, message: str, remedy: str) -> None:
    assert override_refusal(key, value) == (message, remedy)


def test_find_field_by_its_last_part() -> None:
    assert find_field("bytes_per_partition").key == "sbuf.bytes_per_partition"
    assert find_field("mac_pj.f32").key == "energy.mac_pj.f32"


def test_parse_settings() -> None:
    assert parse_settings(["a.b=1", "c = x=y"]) == {"a.b": "1", "c": "x=y"}
    with pytest.raises(TargetError) as caught:
        parse_settings(["a.b"])
    assert caught.value.message == "--set: 'a.b' is not of the form key=value"
    assert caught.value.help == "write for example sbuf.bytes_per_partition=98304"


# --- files --------------------------------------------------------------------------------------


def test_load_from_a_path(tmp_path: Path) -> None:
    assert Target.load(edited(tmp_path, '^name = "tiny"', 'name = "mine"')).name == "mine"


def test_integer_where_a_float_is_due(tmp_path: Path) -> None:
    target = Target.load(edited(tmp_path, "^startup_ns = 100.0", "startup_ns = 100"))
    assert isinstance(target.dma.startup_ns, float)


def test_unknown_target() -> None:
    with pytest.raises(TargetError) as caught:
        Target.load("neuroncore_v3")
    assert caught.value.message == "unknown target 'neuroncore_v3'"
    assert caught.value.help == (f"name a preset ({PRESET_NAMES}) or the path of a .toml file")


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.toml") == (
        "cannot be read: no such file or directory",
        f"presets are {PRESET_NAMES}",
    )


def test_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[sbuf\n", encoding="utf-8")
    message, remedy = refusal(path)
    assert message.startswith("not valid TOML: expected ']' at the end of a table declaration")
    assert remedy == "mend the file, or start from a copy of a preset"


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert refusal(path) == ("not a text file", "a target is a TOML file in UTF-8")


@pytest.mark.parametrize(
    ("pattern", "replacement", "message", "remedy"),
    [
        (
            r"^bytes_per_partition = 4096",
            "bytes_per_partition = -4096",
            "'sbuf.bytes_per_partition' is -4096, but must be at least 1",
            "sbuf.bytes_per_partition (bytes): Capacity of one partition.",
        ),
        (
            r"^bytes_per_partition = 4096",
            'bytes_per_partition = "4 KiB"',
            "'sbuf.bytes_per_partition' is \"4 KiB\", but must be an integer",
            "sbuf.bytes_per_partition (bytes): Capacity of one partition.",
        ),
        (
            r"^banks = 4",
            "banks = true",
            "'psum.banks' is true, but must be an integer",
            "psum.banks (banks): Banks of one partition; the result of one matmul lies in one "
            "bank. 0, beside a flat scratchpad, says that there is no psum, and the rest of its "
            "table nothing.",
        ),
        (
            r"^banks = 4.*$",
            "",
            "missing key 'psum.banks'",
            "write `banks = ...` in table [psum]; docs/targets.md says what it means",
        ),
        (
            r"^default_dtype = .*$",
            "",
            "missing key 'default_dtype'",
            "write `default_dtype = ...` at the top of the file; docs/targets.md says what it "
            "means",
        ),
        (
            r"^\[dram\]$",
            "[dram]\nbandwidth = 3",
            "unknown key 'dram.bandwidth'",
            "did you mean 'dram.bytes' or 'dram.bytes_per_ns'",
        ),
        (
            r"^rows = 8",
            "rows = 9",
            "'tensor.rows' is 9, but must be at most 'sbuf.partitions', which is 8",
            "the contraction lies across the partitions; a flat scratchpad has 1 partition",
        ),
        (
            r"^columns = 8",
            "columns = 9",
            "'tensor.columns' is 9, but must be at most 'psum.partitions', which is 8",
            "the array's columns write one psum partition each",
        ),
        (
            r"^moving_columns = 16",
            "moving_columns = 17",
            "'tensor.moving_columns' is 17, but must be at most 16: 'psum.bank_bytes' is 64",
            "the result of one matmul, 4 bytes per element, lies in one psum bank",
        ),
        (
            r"^open_groups = 4",
            "open_groups = 5",
            "'psum.open_groups' is 5, but must be at most 'psum.banks', which is 4",
            "every open accumulation occupies a bank",
        ),
        (
            r"^partition_start_granule = 2",
            "partition_start_granule = 3",
            "'sbuf.partition_start_granule' is 3, but must divide 'sbuf.partitions', which is 8",
            "quadrants are of equal size",
        ),
        (
            r'^default_dtype = "f32"',
            'default_dtype = "f64"',
            "'default_dtype' is \"f64\", but the tensor engine takes f32, bf16, f16, f8, i8",
            "choose one of these, or give it a rate in [tensor.cycles_per_row]",
        ),
        (
            r'^exclusive_engines = \["vector", "gpsimd"\]',
            'exclusive_engines = ["vector", "gpu"]',
            "'sbuf.exclusive_engines' names \"gpu\", but the engines are "
            "tensor, vector, scalar, gpsimd, dma",
            "correct the name",
        ),
        (
            r'^dataflow = "weight_stationary"',
            'dataflow = "row_stationary"',
            "'tensor.dataflow' is \"row_stationary\", but must be "
            '"weight_stationary" or "output_stationary"',
            "tensor.dataflow: What stays in the array: the stationary operand, [k, m] in its rows "
            "and columns, while n streams; or the result, [n, m] in its rows and columns, while k "
            "streams.",
        ),
        (
            r'^dataflow = "weight_stationary"',
            'dataflow = "output_stationary"',
            "'tensor.moving_columns' is 16, but must be at most 'tensor.rows', which is 8",
            "an output-stationary array holds one moving column in each of its rows",
        ),
        (
            r"^max_tensor_inputs = 2",
            "max_tensor_inputs = 1",
            "'vector.max_tensor_inputs' is 1, but must be at least 2",
            "the engine adds and multiplies two tensors",
        ),
        (
            r"^dram_bytes_per_ns = 8.0",
            "dram_bytes_per_ns = 7.5",
            "'dram.bytes_per_ns' is 8, but must be at most 'device.dram_bytes_per_ns', "
            "which is 7.5",
            "one core cannot use more of the DRAM than there is; raise both",
        ),
        (
            r'"dram", "device", "energy",$',
            '"dram", "device", "energi",',
            "'assumptions' names \"energi\", which is no key of a target",
            "name a key such as 'sbuf.partitions', or a whole table such as 'energy'",
        ),
    ],
)
def test_file_refused(
    tmp_path: Path, pattern: str, replacement: str, message: str, remedy: str
) -> None:
    assert refusal(edited(tmp_path, pattern, replacement)) == (message, remedy)


def test_flat_scratchpad(tmp_path: Path) -> None:
    path = edited(tmp_path, "^partitions = 8", "partitions = 1")
    text = path.read_text().replace("start_granule = 2", "start_granule = 1")
    path.write_text(text.replace("banks = 4", "banks = 0"))
    assert Target.load(path).is_flat


@given(st.sampled_from([info for info in describe_fields() if info.type in (int, float)]))
def test_a_negative_number_is_refused_everywhere(info: FieldInfo) -> None:
    with pytest.raises(TargetError, match=re.escape(f"'{info.key}' is -1")):
        Target.load("tiny", {info.key: -1})
