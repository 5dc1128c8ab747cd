from dataclasses import dataclass

import pytest

from polystage.dialects import npu
from polystage.errors import FormError, PassError, PolystageError
from polystage.forms import check_form
from polystage.mlir import ir
from polystage.passes import registry
from polystage.passes.registry import Pass, create_pass, pass_options, register_pass
from polystage.pipeline import DEFAULT_PIPELINE, compile_module, default_pipeline, run_pipeline
from polystage.pipeline_syntax import parse_pipeline

BUFFERS = """
func.func @main(%a: memref<4xf32>, %b: memref<4xf32>) {
  memref.copy %a, %b : memref<4xf32> to memref<4xf32>
  return
}
"""


@pytest.fixture(autouse=True)
def own_passes(monkeypatch):
    """Let a test register passes that the next one does not see."""
    monkeypatch.setattr(registry, "PASSES", registry.PASSES)
    before = dict(registry.PASSES)
    yield
    registry.PASSES.clear()
    registry.PASSES.update(before)


def parse(text):
    context = ir.Context()
    npu.load(context)
    return ir.Module.parse(text, context)


def test_records_tell_what_every_pass_did():
    @register_pass
    @dataclass
    class CountFunctionsPass(Pass):
        """Count functions."""

        name = "count-functions"
        times: int = 1
        """How often."""

        def run(self, module):
            for op in module.body:
                self.count("functions", self.times)
                self.remark(op, "is a function")

    records = run_pipeline(parse(BUFFERS), "builtin.module(cse,count-functions{times=3})")
    assert [r.name for r in records] == ["cse", "count-functions{times=3}"]
    assert records[1].statistics == {"functions": 3}
    assert records[1].remarks[0].text == "is a function"
    assert records[1].remarks[0].location == "-:2:1"


def test_observers_see_every_element():
    seen = []
    run_pipeline(
        parse(BUFFERS),
        "builtin.module(cse,func.func(canonicalize))",
        before_pass=lambda name, module: seen.append(("before", name)),
        after_pass=lambda name, module: seen.append(("after", name)),
    )
    assert seen == [
        ("before", "cse"),
        ("after", "cse"),
        ("before", "func.func(canonicalize)"),
        ("after", "func.func(canonicalize)"),
    ]


def test_a_function_is_a_pass_too():
    @register_pass
    def drop_everything(module):
        """Leave an empty module."""
        for op in list(module.body):
            op.erase()

    module = parse(BUFFERS)
    run_pipeline(module, "builtin.module(drop-everything)")
    assert not list(module.body)


def test_errors_name_the_pass():
    @register_pass
    def give_up(module):
        raise PassError("no", help="try again", op=module.body.operations[0])

    with pytest.raises(PassError) as error:
        run_pipeline(parse(BUFFERS), "builtin.module(give-up)")
    assert str(error.value) == "-:2:1: give-up: no\nhelp: try again"


def test_a_pass_that_breaks_the_ir_is_told():
    @register_pass
    def break_it(module):
        module.operation.attributes["no_dialect"] = ir.UnitAttr.get()

    with pytest.raises(PassError, match=r"break-it: 'builtin\.module' op can only contain"):
        run_pipeline(parse(BUFFERS), "builtin.module(break-it)")


def test_what_upstream_passes_break_is_told_of_them():
    """Not of our pass that comes next, which does not even run. They find it broken here."""

    @register_pass
    def must_not_run(module):
        raise AssertionError

    module = parse(BUFFERS)
    module.operation.attributes["no_dialect"] = ir.UnitAttr.get(module.context)
    with pytest.raises(PassError, match=r"cse,canonicalize: 'builtin\.module' op can only"):
        run_pipeline(module, "builtin.module(cse,canonicalize,must-not-run)")
    run_pipeline(module, "builtin.module(cse,canonicalize)", verify_each=False)


def test_upstream_failures_become_our_errors():
    context = ir.Context()
    context.allow_unregistered_dialects = True
    module = ir.Module.parse(
        'func.func @f(%a: tensor<4xf32>) { "other.op"(%a) : (tensor<4xf32>) -> () return }', context
    )
    with pytest.raises(PassError) as error:
        run_pipeline(module, "builtin.module(one-shot-bufferize)")
    assert str(error.value) == "-:1:35: one-shot-bufferize: op was not bufferized"


def test_a_stray_operation_is_reported_where_it_arose():
    @register_pass
    class NeedNpuPass(Pass):
        """Take npu form."""

        name = "need-npu"
        input_form = "npu"

        def run(self, module):
            raise AssertionError("must not run")

    with pytest.raises(FormError) as error:
        run_pipeline(parse(BUFFERS), "builtin.module(need-npu)")
    assert str(error.value) == (
        "-:3:3: need-npu: 'memref.copy' must not appear in npu form\nhelp: need-npu takes npu form"
    )


OVERLAY = (
    '%0 = "npu.overlay"(%a) {offsets = array<i64: 1>, fill = 0.0 : f32} '
    ": (memref<4xf32>) -> memref<6xf32>"
)


def test_overlays_belong_to_buffers_form():
    check_form(parse(f"func.func @f(%a: memref<4xf32>) {{ {OVERLAY}\n return }}"), "buffers")


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("tensors", "%0 = tensor.empty(%n) : tensor<?xf32>", "has the dynamic type tensor<?xf32>"),
        ("buffers", "%0 = tensor.empty() : tensor<4xf32>", "'tensor.empty' must not appear"),
        ("npu", "%0 = memref.load %a[%n] : memref<4xf32>", "'memref.load' must not appear in npu"),
        ("npu", OVERLAY, "'npu.overlay' still stands for storage, which must not appear in npu"),
        ("placed", OVERLAY, "'npu.overlay' still stands for storage, which must not appear in"),
        ("npu", "scf.for %i = %n to %n step %n { %x = math.exp %f : f32 }", "'math.exp' is no"),
    ],
)
def test_forms(form, text, message):
    module = parse(f"func.func @f(%a: memref<4xf32>, %n: index, %f: f32) {{ {text}\n return }}")
    with pytest.raises(FormError, match=message.replace("?", r"\?")):
        check_form(module, form)


def synchronised(text, dma=""):
    """Return a module of one semaphore: a transfer with the attributes `dma`, then `text`."""
    on_chip = 'memref<4xf32, #npu.space<"sbuf">>'
    return parse(
        f"""module attributes {{npu.semaphores = array<i64: 0>}} {{
        func.func @f(%a: memref<4xf32>) {{
          %b = "npu.alloc"() {{address = 0 : i64}} : () -> {on_chip}
          "npu.dma"(%a, %b) {{cause = "input"{dma}}} : (memref<4xf32>, {on_chip}) -> ()
          {text}
          return
        }} }}"""
    )


def on_semaphore(op, *queues):
    return "\n".join(
        f'"npu.{op}"() {{queue = "{q}", semaphore = 0 : i64}} : () -> ()' for q in queues
    )


QUEUE = ', queue = "dma0"'


@pytest.mark.parametrize(
    ("text", "dma", "message"),
    [
        ("", "", "'npu.dma' has no queue, which must not appear in synchronised form"),
        (
            on_semaphore("signal", "tensor", "vector"),
            QUEUE,
            "'npu.signal' of semaphore 0 stands in queue 'vector' and in 'tensor'",
        ),
        (
            on_semaphore("wait", "dma1", "dma0"),
            QUEUE,
            "'npu.wait' of semaphore 0 stands in queue 'dma0' and in 'dma1'",
        ),
    ],
)
def test_synchronised_form(text, dma, message):
    with pytest.raises(FormError, match=message):
        check_form(synchronised(text, dma), "synchronised")


def test_a_queue_may_signal_what_another_waits_for():
    text = on_semaphore("signal", "dma0") + "\n" + on_semaphore("wait", "tensor", "tensor")
    check_form(synchronised(text, QUEUE), "synchronised")


class TestOptions:
    def make(self):
        @register_pass
        @dataclass
        class MakeTeaPass(Pass):
            """Make tea."""

            name = "make-tea"
            cups: int = 1
            """How many."""
            sugar: bool = False
            """Whether with sugar."""
            strength: float = 0.5
            """From 0 to 1."""
            names: tuple[str, ...] = ()
            """Of the guests."""
            tile_size: int | None = None
            """None leaves it."""

        return MakeTeaPass

    def test_text_becomes_typed_fields(self):
        self.make()
        text = {"cups": "3", "sugar": "true", "strength": "1", "names": "a,b", "tile-size": "8"}
        tea = create_pass("make-tea", text)
        assert vars(tea) == {
            "cups": 3,
            "sugar": True,
            "strength": 1.0,
            "names": ("a", "b"),
            "tile_size": 8,
        }

    def test_docstrings_under_fields(self):
        options = {option.name: option for option in pass_options(self.make())}
        assert options["cups"].doc == "How many."
        assert options["tile-size"].field == "tile_size"

    @pytest.mark.parametrize(
        ("option", "text", "takes"),
        [
            ("cups", "many", "an integer"),
            ("sugar", "maybe", "true or false"),
            ("strength", "x", "a number"),
        ],
    )
    def test_invalid_values(self, option, text, takes):
        self.make()
        with pytest.raises(PolystageError) as error:
            create_pass("make-tea", {option: text})
        assert error.value.message == (
            f"option '{option}' of 'make-tea' is '{text}', but it takes {takes}"
        )

    def test_a_name_is_taken_once(self):
        self.make()
        with pytest.raises(ValueError, match="pass name 'cse-again' is taken"):

            @register_pass
            def cse_again(module):
                pass

            class Other(Pass):
                name = "cse-again"

            register_pass(Other)


class TestDefaultPipeline:
    def test_is_a_pipeline(self):
        text = default_pipeline("tiny", "f32", ["sbuf.partitions=8"])
        assert "npu-attach-target{target=tiny set=sbuf.partitions=8}" in text
        parse_pipeline(text)

    def test_every_stage_has_a_reason(self):
        assert all(stage.reason for stage in DEFAULT_PIPELINE)

    def test_compile_leaves_its_input_alone(self):
        module = parse(BUFFERS)
        before = str(module)
        program = compile_module(
            module, target="tiny", pipeline="builtin.module(npu-attach-target)"
        )
        assert str(module) == before
        assert "npu.target" in str(program)
