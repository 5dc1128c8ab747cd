"""Another batch size at import: what changes in the model, what it computes, what is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from polystage.errors import FrontendError
from polystage.evaluator.module_evaluator import evaluate
from polystage.frontends import ImportedModel, load

RNG = np.random.default_rng(0)


def value(name: str, shape: list, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def onnx_model(
    nodes: list, inputs: list, outputs: list, constants: dict | None = None
) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    for position, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type.lower()}{position}"
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def chain(source: list, steps: list, constants: dict, batch: int | str = 1) -> onnx.ModelProto:
    """Return a model that applies `steps` of (operator, further operands, attributes) in turn."""
    nodes, last = [], "x"
    for position, (operator, operands, attributes) in enumerate(steps):
        result = "y" if position == len(steps) - 1 else f"v{position}"
        names = [o.replace("@", last) for o in operands] if "@" in "".join(operands) else None
        nodes.append(helper.make_node(operator, names or [last, *operands], [result], **attributes))
        last = result
    return onnx_model(nodes, [value("x", [batch, *source])], [value("y", None)], constants)


def classifier(batch: int | str = 1) -> onnx.ModelProto:
    """Return what image classifiers end in: a fixed batch in the target of a reshape."""
    steps = [
        ("Conv", ["w"], {"pads": [1, 1, 1, 1]}),
        ("Relu", [], {}),
        ("GlobalAveragePool", [], {}),
        ("Reshape", ["flat"], {}),
        ("Gemm", ["fc", "bias"], {}),
        ("Softmax", [], {}),
    ]
    constants = {"w": floats(4, 3, 3, 3), "flat": ints(1, 4), "fc": floats(4, 5), "bias": floats(5)}
    return chain([3, 6, 6], steps, constants, batch)


def attention() -> onnx.ModelProto:
    """Return a head split by reshapes, with the batch merged into the rows of a Gemm."""
    steps = [
        ("Reshape", ["rows"], {}),
        ("Gemm", ["w"], {}),
        ("Reshape", ["heads"], {}),
        ("Transpose", [], {"perm": [0, 2, 1, 3]}),
        ("MatMul", ["v"], {}),
        ("Reshape", ["merged"], {}),
        ("Softmax", [], {"axis": -1}),
        ("Reshape", ["out"], {}),
    ]
    constants = {
        "rows": ints(-1, 6),
        "w": floats(6, 8),
        "heads": ints(1, 5, 2, 4),
        "v": floats(4, 4),
        "merged": ints(2, 5, 4),
        "out": ints(1, 2, -1),
    }
    return chain([5, 6], steps, constants)


def shuffle() -> onnx.ModelProto:
    steps = [
        ("Reshape", ["groups"], {}),
        ("Transpose", [], {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ["channels"], {}),
    ]
    return chain([6, 4, 4], steps, {"groups": ints(1, 2, 3, 4, 4), "channels": ints(1, 6, 4, 4)})


def class_token() -> onnx.ModelProto:
    steps = [("Concat", ["token", "@"], {"axis": 1}), ("Add", ["position"], {})]
    return chain([4, 3], steps, {"token": floats(1, 1, 3), "position": floats(1, 5, 3)})


def mask() -> onnx.ModelProto:
    steps = [("Expand", ["shape"], {}), ("Where", ["condition", "@", "low"], {})]
    constants = {"shape": ints(1, 3, 4), "condition": np.tri(3, 4) > 0, "low": floats(1)}
    return chain([1, 4], steps, constants)


def resized() -> onnx.ModelProto:
    steps = [("Resize", ["", "", "sizes"], {"mode": "nearest"})]
    return chain([2, 3, 3], steps, {"sizes": ints(1, 2, 6, 6)})


def padded() -> onnx.ModelProto:
    steps = [
        ("Pad", ["pads"], {}),
        ("Slice", ["from", "to"], {}),
        ("Flatten", [], {"axis": 1}),
        ("Squeeze", ["axes"], {}),
    ]
    constants = {
        "pads": ints(0, 0, 1, 0, 0, 1),
        "from": ints(0, 0, 1),
        "to": ints(99, 1, 4),
        "axes": ints(),
    }
    return chain([2, 4], steps[:-1], constants)


def embedding() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("ReduceMean", ["e", "axes"], ["y"], keepdims=0),
    ]
    constants = {"table": floats(7, 4), "axes": ints(1)}
    inputs = [value("x", [1, 3], TensorProto.INT64)]
    return onnx_model(nodes, inputs, [value("y", None)], constants)


def two_inputs() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "z"], ["m"]),
        helper.make_node("Mul", ["m", "scale"], ["y"]),
    ]
    inputs = [value("x", [1, 2, 3]), value("z", [1, 3, 2]), value("scale", [])]
    return onnx_model(nodes, inputs, [value("y", None)])


MODELS = {
    f.__name__: f
    for f in (
        classifier,
        attention,
        shuffle,
        class_token,
        mask,
        resized,
        padded,
        embedding,
        two_inputs,
    )
}


def random_inputs(model: ImportedModel) -> dict[str, np.ndarray]:
    return {
        s.name: (
            RNG.normal(size=s.shape) if s.dtype.kind == "f" else RNG.integers(0, 3, s.shape)
        ).astype(s.dtype)
        for s in model.inputs
    }


def assert_items_are_those_of(single: ImportedModel, model: ImportedModel, batch: int) -> None:
    """The batched module gives for each item what the model without a batch gives."""
    inputs = random_inputs(model)
    found = evaluate(model.module, inputs)
    expected = model.run_reference(inputs)
    for item in range(batch):
        alone = single.run_reference(
            {n: a[item : item + 1] if a.ndim else a for n, a in inputs.items()}
        )
        for spec in model.outputs:
            inner = spec.shape[0] // batch
            part = slice(item * inner, (item + 1) * inner)
            np.testing.assert_allclose(found[spec.name][part], alone[spec.name], 1e-4, 1e-5)
            np.testing.assert_allclose(expected[spec.name][part], alone[spec.name], 1e-5, 1e-6)


def message(source: object, **options: object) -> str:
    with pytest.raises(FrontendError) as error:
        load(source, **options)
    return str(error.value)


class TestOnnx:
    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("batch", [2, 3])
    def test_items_are_those_of_the_single_model(self, name: str, batch: int) -> None:
        source = MODELS[name]()
        model = load(source, batch=batch)
        assert model.inputs[0].shape[0] == batch
        assert_items_are_those_of(load(source), model, batch)

    def test_the_model_itself_stays(self) -> None:
        source = classifier()
        before = source.SerializeToString()
        load(source, batch=4)
        assert source.SerializeToString() == before

    def test_dynamic_batch(self) -> None:
        source = classifier("n")
        assert load(source, batch=4).inputs[0].shape == (4, 3, 6, 6)
        assert_items_are_those_of(load(source, bind={"n": 1}), load(source, batch=4), 4)

    def test_dynamic_batch_without_name(self) -> None:
        source = classifier()
        source.graph.input[0].type.tensor_type.shape.dim[0].Clear()
        assert load(source, batch=2).outputs[0].shape == (2, 5)

    def test_same_batch(self) -> None:
        assert load(classifier(), batch=1).inputs[0].shape == (1, 3, 6, 6)

    def test_several_items_at_once(self) -> None:
        source = chain([2], [("Relu", [], {})], {}, batch=2)
        model = load(source, batch=6)
        inputs = random_inputs(model)
        np.testing.assert_array_equal(model.run_reference(inputs)["y"], np.maximum(inputs["x"], 0))

    def test_no_multiple(self) -> None:
        assert message(chain([2], [("Relu", [], {})], {}, batch=2), batch=3) == (
            "model: the model has a batch of 2, of which 3 is no multiple\n"
            "help: export it with a batch of 1"
        )

    def test_no_batch_at_all(self) -> None:
        assert message(classifier(), batch=0) == "model: a batch of 0: it must be at least 1"

    def test_no_dimensions(self) -> None:
        source = onnx_model(
            [helper.make_node("Relu", ["x"], ["y"])], [value("x", [])], [value("y", [])]
        )
        assert message(source, batch=2) == (
            "model: the batch cannot be set: no input has dimensions"
        )

    def test_bound_too(self) -> None:
        assert message(classifier("n"), batch=2, bind={"n": 2}) == (
            "model: dimension 'n' is the batch, but is bound to 2\n"
            "help: give one of --batch and --bind"
        )

    def test_inputs_that_differ(self) -> None:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        source = onnx_model(nodes, [value("x", [1, 3]), value("w", [3, 2])], [value("y", [1, 2])])
        assert message(source, batch=2) == (
            "model: the batch cannot be set: the first dimensions of the inputs differ "
            "(1 of 'x', 3 of 'w')\n"
            "help: export the model with a dynamic first dimension for the inputs with a batch"
        )

    def test_reshape_that_mixes(self) -> None:
        steps = [("Transpose", [], {"perm": [1, 0, 2]}), ("Reshape", ["shape"], {})]
        assert message(chain([4, 3], steps, {"shape": ints(2, 6)}), batch=5) == (
            "model: at 'reshape1': operator 'Reshape' cannot take a batch of 5 instead of 1: from "
            "[4, 1, 3] to [2, 6] it mixes the batch, in dimension 1, with other dimensions\n"
            "help: export the model with the batch to compile it for"
        )

    def test_merged_batch_that_is_contracted(self) -> None:
        steps = [("Reshape", ["shape"], {}), ("MatMul", ["@", "w"], {})]
        steps[1] = ("MatMul", ["w", "@"], {})
        source = chain([4, 3], steps, {"shape": ints(4, 3), "w": floats(2, 4)})
        assert message(source, batch=5) == (
            "model: at 'matmul1': operator 'MatMul' cannot take a batch of 5 instead of 1: "
            "incompatible dimensions for matrix multiplication\n"
            "help: 'reshape0' merges the batch with another dimension; export the model with the "
            "batch to compile it for"
        )

    def test_constant_with_the_old_batch(self) -> None:
        source = chain([3], [("Add", ["c"], {})], {"c": floats(2, 3)}, batch=2)
        assert "at 'add0': operator 'Add' cannot take a batch of 4 instead of 2" in message(
            source, batch=4
        )

    def test_squeezed_batch(self) -> None:
        source = chain([3], [("Squeeze", ["axes"], {})], {"axes": ints(0)})
        assert "at 'squeeze0': operator 'Squeeze' cannot take a batch of 2" in message(
            source, batch=2
        )

    @pytest.mark.parametrize(
        ("operator", "operands", "attributes", "reason"),
        [
            ("ReduceMean", {"axes": ints(0)}, {}, "it computes one value from all items"),
            ("Softmax", {}, {"axis": 0}, "it computes with the number of the item"),
            ("CumSum", {"axis": np.array(0)}, {}, "with a value that is not one for all"),
        ],
        ids=["mean", "softmax", "cumsum"],
    )
    def test_items_that_depend_on_each_other(
        self, operator: str, operands: dict, attributes: dict, reason: str
    ) -> None:
        """Each keeps the shape, so that nothing but the proof can tell."""
        step = (operator, list(operands), attributes)
        found = message(chain([4], [step, ("Relu", [], {})], operands, 3), batch=6)
        assert f"at '{step[0].lower()}0': the items of a batch of 6 are not independent: " in found
        assert reason in found

    def test_body_that_reads_the_batch(self) -> None:
        body = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["b"])], "body", [], [value("b", [1, 2])]
        )
        nodes = [
            helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body, name="if")
        ]
        inputs = [value("x", [1, 2]), value("flag", [], TensorProto.BOOL)]
        source = onnx_model(nodes, inputs, [value("y", [1, 2])])
        assert "at 'if': operator 'If' cannot take a batch of 2" in message(source, batch=2)


class TestMlir:
    def test_is_refused(self, tmp_path) -> None:
        path = tmp_path / "model.mlir"
        path.write_text("module {}")
        assert message(path, batch=2) == (
            f"{path}: the batch cannot be set: the shapes of an MLIR module are fixed\n"
            "help: export the model with the batch to compile it for"
        )


class TestJax:
    @pytest.fixture(autouse=True)
    def jax(self):
        return pytest.importorskip("jax")

    def test_function(self) -> None:
        import jax.numpy as jnp

        weight = floats(4, 5)

        def f(x, scale):
            return jnp.tanh(x @ weight) * scale

        examples = [np.zeros((1, 4), np.float32), np.float32(2)]
        model, single = (load(f, inputs=examples, name="f", batch=b) for b in (3, None))
        assert [s.shape for s in model.inputs] == [(3, 4), ()]
        assert_items_are_those_of(single, model, 3)

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (lambda x: x - x.mean(0), "it computes one value from all items"),
            (lambda x: x[::-1], "it reads several items at once"),
            (lambda x: x @ x.T, "it combines values whose batches lie differently"),
            (lambda x: x + np.arange(3.0, dtype="f4")[:, None], "a value that is not one for all"),
            (lambda x: x[:2], "it takes only a part of the batch"),
        ],
        ids=["mean", "reversed", "gram", "numbered", "part"],
    )
    def test_items_that_depend_on_each_other(self, function, reason) -> None:
        example = np.zeros((3, 4), np.float32)
        assert reason in message(function, inputs=[example], name="f", batch=3)

    def test_merged_at(self) -> None:
        ones = np.ones((12, 12), np.float32)
        found = message(
            lambda x: (x.reshape(-1) @ ones).reshape(3, 4),
            inputs=[np.zeros((3, 4), np.float32)],
            batch=3,
            name="f",
        )
        assert "merges the batch with another dimension" in found

    def test_examples_that_differ(self) -> None:
        examples = [np.zeros((2, 4), np.float32), np.zeros((4, 5), np.float32)]
        assert message(lambda a, b: a @ b, inputs=examples, name="f", batch=3) == (
            "f: the batch cannot be set: the example inputs have no common first dimension "
            "(found 2, 4)\nhelp: give example inputs with the batch to compile for"
        )


class TestTorch:
    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    def network(self, torch):
        layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(64, 5))
        return torch.nn.Sequential(*layers).eval()

    def test_module(self, torch) -> None:
        module, example = self.network(torch), torch.randn(1, 3, 6, 6)
        model, single = (load(module, inputs=[example], batch=b) for b in (3, None))
        assert model.inputs[0].shape == (3, 3, 6, 6)
        assert_items_are_those_of(single, model, 3)

    def test_program_with_a_dynamic_batch(self, torch, tmp_path) -> None:
        module, example = self.network(torch), torch.randn(2, 3, 6, 6)
        shapes = ({0: torch.export.Dim("n")},)
        program = torch.export.export(module, (example,), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "m.pt2")
        single = load(module, inputs=[example[:1]])
        assert_items_are_those_of(single, load(program, batch=4), 4)
        assert_items_are_those_of(single, load(tmp_path / "m.pt2", batch=6), 6)

    def test_program_of_fixed_shape(self, torch) -> None:
        program = torch.export.export(self.network(torch), (torch.randn(1, 3, 6, 6),))
        assert message(program, batch=2, name="p") == (
            "p: the batch cannot be set: the shapes of an exported program without dynamic_shapes "
            "are fixed\nhelp: export the model with the batch to compile it for"
        )

    def test_items_read_by_number(self, torch) -> None:
        class Gathered(torch.nn.Module):
            def __init__(self, order):
                super().__init__()
                self.order = order

            def forward(self, x):
                rows = torch.arange(x.shape[0])[:, None]
                return x[self.order(rows), torch.tensor([[2, 0]])]

        example = torch.randn(1, 4)
        own = Gathered(lambda rows: rows).eval()
        model, single = (load(own, inputs=[example], batch=b) for b in (3, None))
        assert_items_are_those_of(single, model, 3)
        for order in (lambda rows: 2 - rows, lambda rows: rows * 0):
            found = message(Gathered(order).eval(), inputs=[example], batch=3)
            assert "which item it reads depends on values" in found

    def test_module_with_a_fixed_view(self, torch) -> None:
        class Fixed(torch.nn.Module):
            def forward(self, x):
                return x.view(1, -1).softmax(1)

        found = message(Fixed().eval(), inputs=[torch.randn(1, 4)], batch=2)
        assert "the items of a batch of 2 are not independent" in found
        assert "'view' merges the batch with another dimension" in found
