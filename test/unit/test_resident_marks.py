"""Resident groups run where nothing else has to run between their operators; marks that somebody
edited are refused where they contradict each other."""

import re

import numpy as np
import pytest
from attention_programs import AttentionProgram

from polystage.dialects import npu
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.resident import marking
from polystage.passes.lower.resident.groups import possible_operators
from polystage.passes.lower.resident.operators import Other
from polystage.passes.lower.resident.recognise import recognise
from polystage.pipeline import run_pipeline
from polystage.simulator import simulate

MARK = "builtin.module(npu-attach-target{{target=neuroncore_v2{settings}}},npu-fuse-operators)"
LOWER = "builtin.module(convert-linalg-to-npu,npu-allocate-scratchpad,npu-insert-sync)"

MAPS = """
#id = affine_map<(c, h) -> (c, h)>
#row = affine_map<(c, h) -> (h)>
#column = affine_map<(h) -> (h)>
#moving = affine_map<(m, h, k) -> (k, h)>
#weights = affine_map<(m, h, k) -> (k, m)>
#sums = affine_map<(m, h, k) -> (m, h)>
memref.global "private" constant @w : memref<128x128xf32> = dense<0.01>
memref.global "private" constant @wide : memref<128x1024xf32> = dense<0.01>
"""


def array(name: str, rows: int = 128) -> str:
    return f"  %{name} = memref.alloc() : memref<{rows}x32xf32>\n"


def contraction(source: str, result: str, rows: int = 128, weights: str = "w") -> str:
    kind, held = f"memref<{rows}x32xf32>", f"memref<128x{rows}xf32>"
    return f"""{array(result, rows)}
  linalg.generic {{indexing_maps = [#id], iterator_types = ["parallel", "parallel"]}}
      outs(%{result} : {kind}) {{
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }}
  linalg.generic {{indexing_maps = [#moving, #weights, #sums],
      iterator_types = ["parallel", "parallel", "reduction"]}}
      ins(%{source}, %{weights} : memref<128x32xf32>, {held}) outs(%{result} : {kind}) {{
  ^bb0(%p: f32, %q: f32, %o: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %o, %m : f32
    linalg.yield %s : f32
  }}
"""


def elementwise(left: str, right: str, result: str, body: str, rows: int = 128) -> str:
    kind = f"memref<{rows}x32xf32>"
    return f"""{array(result, rows)}
  linalg.generic {{indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}}
      ins(%{left}, %{right} : {kind}, {kind}) outs(%{result} : {kind}) {{
  ^bb0(%p: f32, %q: f32, %o: f32):
    {body}
    linalg.yield %s : f32
  }}
"""


ADD = "%s = arith.addf %p, %q : f32"

EARLY_PRODUCT = f"""{MAPS}
func.func @main(
    %x: memref<128x32xf32> {{npu.name = "x"}}, %z: memref<1024x32xf32> {{npu.name = "z"}}
  ) -> (memref<1024x32xf32> {{npu.name = "u"}}, memref<128x32xf32> {{npu.name = "v"}}) {{
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @w : memref<128x128xf32>
  %wide = memref.get_global @wide : memref<128x1024xf32>
{contraction("x", "y")}
{contraction("y", "part", 1024, "wide")}
{contraction("y", "v")}
{elementwise("part", "z", "u", ADD, 1024)}
  return %u, %v : memref<1024x32xf32>, memref<128x32xf32>
}}
"""
"""`u = wide y + z`; the product stands before `v`, the sum that it is part of behind."""

NORM = f"""{MAPS}
func.func @main(%x: memref<128x32xf32> {{npu.name = "x"}})
    -> (memref<128x32xf32> {{npu.name = "v"}}) {{
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @w : memref<128x128xf32>
{contraction("x", "y")}
{elementwise("y", "y", "squares", "%s = arith.mulf %p, %q : f32")}
  %total = memref.alloc() : memref<32xf32>
  linalg.generic {{indexing_maps = [#column], iterator_types = ["parallel"]}}
      outs(%total : memref<32xf32>) {{
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }}
  linalg.generic {{indexing_maps = [#id, #row], iterator_types = ["reduction", "parallel"]}}
      ins(%squares : memref<128x32xf32>) outs(%total : memref<32xf32>) {{
  ^bb0(%p: f32, %o: f32):
    %s = arith.addf %p, %o : f32
    linalg.yield %s : f32
  }}
{array("normal")}
  linalg.generic {{indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}}
      ins(%y, %total : memref<128x32xf32>, memref<32xf32>) outs(%normal : memref<128x32xf32>) {{
  ^bb0(%p: f32, %q: f32, %o: f32):
    %s = arith.mulf %p, %q : f32
    linalg.yield %s : f32
  }}
{contraction("normal", "v")}
  return %v : memref<128x32xf32>
}}
"""

ATTENTION = AttentionProgram(
    heads=2, queries=20, keys=30, depth=64, values=64, features=True, rectified=True
).text()


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch):
    """Groups of few small arrays save nothing."""
    monkeypatch.setattr(marking, "saved_ns", lambda group, target: 1.0)


def parsed(text):
    context = ir.Context()
    npu.load(context)
    return ir.Module.parse(text, context)


def marked(text, sbuf_bytes=0):
    """Return the program with its groups marked, as text."""
    settings = f" set=sbuf.bytes_per_partition={sbuf_bytes}" if sbuf_bytes else ""
    module = parsed(text)
    run_pipeline(module, MARK.format(settings=settings))
    return str(module)


def lowered(text):
    module = parsed(text)
    run_pipeline(module, LOWER)
    return module


# --- where groups run -----------------------------------------------------------------------------


def test_an_operator_that_no_group_can_run_stands_where_each_of_its_operations_does():
    """Its weights do not fit: a group from `y` to `v` would come after a product that reads `y`."""
    module = parsed(EARLY_PRODUCT)
    target = Target.load("neuroncore_v2", {"sbuf.bytes_per_partition": 4000})
    with module.context, ir.Location.unknown():
        (main,) = (op for op in module.body.operations if isinstance(op, func.FuncOp))
        operations = marking.computing_operations(main)
        found = possible_operators(recognise(operations, target), target)
    assert [len(o.ops) for o in found] == [2, 1, 1, 2, 3]
    assert [type(o).__name__ for o in found] == ["Sum", "Other", "Other", "Sum", "Other"]
    assert [o.reason for o in found if isinstance(o, Other)] == [
        None,
        None,
        "its weights take 4096 bytes per partition, but sbuf has 4000",
    ]


@pytest.mark.parametrize(("sbuf_bytes", "operations"), [(4000, 0), (5000, 0), (196608, 7)])
def test_no_group_comes_after_what_has_to_run_in_its_midst(sbuf_bytes, operations):
    """With 5000 bytes `y` and `v` would fit as a group, but not `u`, whose product is between."""
    text = marked(EARLY_PRODUCT, sbuf_bytes)
    in_group = text.count("npu.group = 0") if "npu.resident" in text else 0
    assert in_group == operations
    random = np.random.default_rng(0)
    x = random.standard_normal((128, 32)).astype(np.float32)
    z = random.standard_normal((1024, 32)).astype(np.float32)
    result = simulate(lowered(text), {"x": x, "z": z})
    y = np.broadcast_to(0.01 * x.sum(0), (128, 32))
    v = np.broadcast_to(0.01 * y.sum(0), (128, 32))
    np.testing.assert_allclose(result.outputs["v"], v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.outputs["u"], v[0] + z, rtol=1e-5, atol=1e-5)


# --- marks that were edited -----------------------------------------------------------------------


def edited(text, attribute, number, replacement):
    """Return a program in which one occurrence of a mark is another."""
    found = list(re.finditer(re.escape(attribute), text))[number]
    return text[: found.start()] + replacement + text[found.end() :]


GROUP, ARRAY = "npu.group = 0 : i64", "npu.resident = [0]"
OTHER = "unknown.mark = 0 : i64"


@pytest.mark.parametrize("text", [ATTENTION, NORM], ids=["attention", "norm"])
def test_no_operation_of_a_group_can_be_left_out(text):
    """Whichever it is: of attention or of a sum an operation would be missing, of a norm what is
    next would find nothing."""
    program = marked(text)
    for number in range(program.count(GROUP)):
        for mark in (OTHER, "npu.group = 1 : i64"):
            with pytest.raises(PassError):
                lowered(edited(program, GROUP, number, mark))


@pytest.mark.parametrize(
    ("text", "number", "message"),
    [
        (ATTENTION, 4, "an operator of a resident group has operations whose 'npu.group' is "
         "0 and none\nhelp: give all 11 of them the same 'npu.group', or none"),
        (NORM, 3, "an operator of a resident group has operations whose 'npu.group' is "
         "none and 0\nhelp: give all 2 of them the same 'npu.group', or none"),
        (NORM, 2, "'npu.resident' has 0, but resident group 0 does not make this array\n"
         "help: remove it, or give what makes the array 'npu.group = 0'"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_named(text, number, message):
    with pytest.raises(PassError) as error:
        lowered(edited(marked(text), GROUP, number, OTHER))
    assert str(error.value).partition("convert-linalg-to-npu: ")[2] == message


def test_an_operation_in_the_midst_of_a_group_is_refused():
    """The norm without what squares its input: that would run before its input is made."""
    program = edited(marked(NORM), GROUP, 2, OTHER)
    with pytest.raises(PassError, match="resident group 0 runs where its last operation stands"):
        lowered(edited(program, ARRAY, 1, OTHER))


@pytest.mark.parametrize(
    ("mark", "replacement", "message"),
    [
        (GROUP, 'npu.group = "a"', """'npu.group' is "a", but must be an integer"""),
        (ARRAY, "npu.resident = [0, 3]", "'npu.resident' has 3, but resident group 3 does not"),
        (ARRAY, "npu.resident = 0", "'npu.resident' is 0 : i64, but must be a list of groups"),
        (ARRAY, 'npu.resident = ["a"]', """'npu.resident' has "a", but must be an integer"""),
        (ARRAY, OTHER, "resident group 0 makes this array, but 'npu.resident' does not have it"),
        (GROUP, f"{GROUP}, npu.part = 1 : i64", "resident group 0 have 'npu.part' 1 and none"),
        (GROUP, f'{GROUP}, npu.part = "a"', """'npu.part' is "a", but must be an integer"""),
    ],
)
@pytest.mark.parametrize("text", [ATTENTION, NORM], ids=["attention", "norm"])
def test_marks_that_contradict_each_other_are_refused(text, mark, replacement, message):
    with pytest.raises(PassError) as error:
        lowered(edited(marked(text), mark, 0, replacement))
    assert message in str(error.value)


def test_a_batch_of_attention_is_not_done_in_parts():
    program = marked(ATTENTION).replace(GROUP, f"{GROUP}, npu.part = 1 : i64")
    with pytest.raises(PassError, match=r"'npu\.part' is 1, but the batch of .* group 0 is none"):
        lowered(program)


def test_one_operator_is_no_group():
    """Attention in a group without the relu of its result."""
    program = edited(marked(ATTENTION), GROUP, 11, "npu.group = 1 : i64")
    with pytest.raises(PassError, match="resident group 0 is one operator, but arrays stay on"):
        lowered(edited(program, ARRAY, 1, OTHER))
