"""The module attribute `npu.target` and the pass that sets it."""

import gc
import weakref

import pytest

from polystage.dialects.npu.target import required_target, target_attribute, target_of
from polystage.errors import PassError, TargetError
from polystage.machine import Target, describe_fields
from polystage.mlir import ir
from polystage.passes.lower.attach_target import AttachTargetPass
from polystage.passes.registry import create_pass

MODULE = "module { func.func private @f() }"


def attached(**options: str) -> ir.Module:
    with ir.Context():
        module = ir.Module.parse(MODULE)
    create_pass("npu-attach-target", options).run(module)
    return module


@pytest.mark.parametrize("name", Target.presets())
def test_text_round_trip(name: str) -> None:
    module = attached(target=name)
    assert target_of(module) == Target.load(name)
    with ir.Context():
        assert target_of(ir.Module.parse(str(module))) == Target.load(name)


def test_target_of_an_operation_inside() -> None:
    module = attached(target="tiny")
    assert target_of(module.body.operations[0]) == Target.load("tiny")


def test_no_target() -> None:
    with ir.Context():
        module = ir.Module.parse(MODULE)
        assert target_of(module) is None
        assert target_of(module.body.operations[0]) is None
        assert target_of(module.operation.clone(ip=False)) is None


def test_required_target() -> None:
    assert required_target(attached(target="tiny")) == Target.load("tiny")
    with ir.Context():
        module = ir.Module.parse(MODULE)
    with pytest.raises(PassError) as caught:
        required_target(module)
    assert caught.value.message == "the module names no target"
    assert caught.value.help == "run npu-attach-target{target=NAME} first"


def test_same_attribute_same_object() -> None:
    module = attached(target="tiny")
    assert target_of(module) is target_of(module)


def test_contexts_are_not_kept_alive() -> None:
    module = attached(target="tiny")
    context = weakref.ref(module.context)
    assert target_of(module)
    del module
    gc.collect()
    assert context() is None


def test_pass_options() -> None:
    module = attached(target="tiny", set="sbuf.bytes_per_partition=1024,vector.lanes=4")
    target = target_of(module)
    assert target is not None
    assert (target.sbuf.bytes_per_partition, target.vector.lanes) == (1024, 4)


def test_pass_replaces() -> None:
    module = attached(target="tiny")
    AttachTargetPass(target="inferentia1").run(module)
    assert target_of(module) == Target.load("inferentia1")


def test_invalid_value() -> None:
    with pytest.raises(TargetError) as caught:
        attached(target="tiny", set="psum.banks=-1")
    assert caught.value.message == "--set: 'psum.banks' is -1, but must be at least 0"


def test_invalid_attribute_incomplete() -> None:
    with ir.Context():
        module = ir.Module.parse('module attributes {npu.target = {name = "x"}} {}')
        with pytest.raises(TargetError) as caught:
            target_of(module)
    assert caught.value.message == (
        "npu.target: missing key 'description', 'default_dtype', 'assumptions' "
        f"and {len(describe_fields()) - 4} more"
    )


def test_invalid_attribute_type() -> None:
    with ir.Context():
        module = ir.Module.parse(MODULE)
        module.operation.attributes["npu.target"] = ir.Attribute.parse(
            str(target_attribute(Target.load("tiny"))).replace(
                "partitions = 8 : i64", "partitions = unit", 1
            )
        )
        with pytest.raises(TargetError) as caught:
            target_of(module)
    assert caught.value.message == "npu.target: 'psum.partitions' is unit, but must be an integer"


def test_invalid_attribute_not_a_dictionary() -> None:
    with ir.Context():
        module = ir.Module.parse('module attributes {npu.target = "tiny"} {}')
        with pytest.raises(TargetError) as caught:
            target_of(module)
    assert caught.value.message == 'npu.target: is "tiny", but must be a dictionary'
    assert caught.value.help == "set it with npu-attach-target{target=tiny}"
