import pytest

from polystage.errors import PipelineError
from polystage.pipeline_syntax import Nest, PassCall, parse_pipeline, runs_on


def test_tree():
    root = parse_pipeline(" builtin.module( canonicalize{top-down=0}, func.func(cse,sccp) )")
    assert isinstance(root, Nest)
    first, second = root.children
    assert isinstance(first, PassCall)
    assert (first.name, first.options, first.column) == ("canonicalize", (("top-down", "0"),), 18)
    assert str(second) == "func.func(cse,sccp)"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("npu-attach-target", ()),
        ("npu-attach-target{}", ()),
        ("npu-attach-target{target=tiny}", (("target", "tiny"),)),
        (
            "npu-attach-target{target=tiny set=sbuf.partitions=8,psum.banks=2}",
            (("target", "tiny"), ("set", "sbuf.partitions=8,psum.banks=2")),
        ),
        ('npu-attach-target{target="a b.toml"}', (("target", "a b.toml"),)),
        ("npu-attach-target{set={a=1, b=2}}", (("set", "{a=1, b=2}"),)),
    ],
)
def test_options(text, options):
    call = parse_pipeline(f"builtin.module({text})").children[0]
    assert isinstance(call, PassCall)
    assert call.options == options


def test_an_error_points_at_its_column():
    with pytest.raises(PipelineError) as error:
        parse_pipeline("builtin.module(cse,nothing)")
    assert error.value.location == "pipeline:1:20"
    assert error.value.message == (
        "unknown pass 'nothing'\nbuiltin.module(cse,nothing)\n                   ^"
    )


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("canonicalize", True, True),
        ("one-shot-bufferize", True, False),
        ("affine-loop-tile", False, True),
        ("convert-gpu-to-nvvm", False, False),
        ("convert-scf-to-spirv", True, False),  # ends the process where it runs on what it replaces
        ("raise-wasm-mlir", True, False),  # the same
        ("print-op-stats", True, True),
    ],
)
def test_what_an_upstream_pass_runs_on(name, module, function):
    assert runs_on(name, "builtin.module") == module
    assert runs_on(name, "func.func") == function
