"""The PyTorch frontend: modules, exported programs, names, weights, refusals."""

from pathlib import Path

import numpy as np
import pytest

from polystage.constants import constant_array
from polystage.errors import FrontendError
from polystage.evaluator.module_evaluator import evaluate
from polystage.forms import walk
from polystage.frontends import ImportedModel, load
from polystage.passes.tensors.normalize import NORMALIZE_PIPELINE
from polystage.pipeline import run_pipeline

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")


def random_inputs(model: ImportedModel) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        s.name: rng.normal(size=s.shape).astype(s.dtype)
        if s.dtype.kind == "f"
        else rng.integers(0, 3, s.shape).astype(s.dtype)
        for s in model.inputs
    }


def assert_computes_its_reference(model: ImportedModel, tolerance: float = 1e-5) -> None:
    inputs = random_inputs(model)
    expected = model.run_reference(inputs)
    run_pipeline(model.module, NORMALIZE_PIPELINE)
    found = evaluate(model.module, inputs)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance)


def weights(model: ImportedModel) -> list[np.ndarray]:
    constants = (o for o in walk(model.module.operation) if o.name == "arith.constant")
    arrays = [c.attributes["value"] for c in constants if "dense_resource" in str(c)[:200]]
    return [constant_array(a) for a in arrays]


class Block(torch.nn.Module):
    """A transformer-like block with a non-persistent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.query = torch.nn.Linear(16, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.register_buffer("positions", torch.randn(8, 16), persistent=False)
        self.register_buffer("scale", torch.randn(16))

    def forward(self, x: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        q = self.query(x + self.positions) * self.scale
        scores = torch.softmax(q @ x.transpose(-1, -2), -1)
        return {"scores": scores, "y": self.norm(scores @ x)}


def test_block() -> None:
    model = load(Block().eval(), inputs=(torch.randn(2, 8, 16),))
    assert model.name == "Block"
    assert [s.name for s in model.inputs] == ["x"]
    assert [s.name for s in model.outputs] == ["scores", "y"]
    assert model.reference == "torch"
    names = model.module.operation.get_asm(enable_debug_info=True, large_elements_limit=4)
    assert 'loc("norm/' in names and 'loc("query/' in names
    assert_computes_its_reference(model)


def test_weights_are_shared_with_the_module() -> None:
    module = torch.nn.Linear(16, 16).eval()
    found = weights(load(module, inputs=(torch.randn(2, 16),)))
    assert any(np.shares_memory(array, module.weight.detach().numpy()) for array in found)


def test_tied_weights_are_one_constant() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(20, 8)
            self.head = torch.nn.Linear(8, 20, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
            return self.head(self.embedding(tokens))

    model = load(Tied().eval(), inputs=(torch.tensor([[1, 2, 3]]),))
    assert model.inputs[0].dtype == np.int64
    assert len(weights(model)) == 1
    assert_computes_its_reference(model)


def test_convolution_with_batch_norm() -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, stride=2), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
    )
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2)
    assert_computes_its_reference(load(module.eval(), inputs=(torch.randn(1, 3, 9, 9),)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.roll(x, (2, -1), (0, 1)),
        lambda x: torch.roll(x, 3),
        lambda x: torch.cumsum(x, 1),
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        lambda x: x.abs() ** 1.7 + x**3 + (x * x + 1) ** -0.5,
        lambda x: torch.nn.functional.pad(x, (1, 2), value=3.0),
        lambda x: torch.cat([x, x.flip(0)], 0),
        lambda x: x.max(1).values + x.argmax(1).float(),
        lambda x: x.std(0),
        lambda x: torch.nn.functional.avg_pool2d(x[None, None], 50, 50, ceil_mode=True),
        lambda x: torch.nn.functional.avg_pool2d(x[None, None], 2, 2),
    ],
)
def test_functions(function: object) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return function(x)

    assert_computes_its_reference(load(Module().eval(), inputs=(torch.randn(4, 6),)), 1e-4)


def test_exported_program_and_its_file(tmp_path: Path) -> None:
    program = torch.export.export(Block().eval(), (torch.randn(2, 8, 16),))
    assert_computes_its_reference(load(program))
    path = tmp_path / "block.pt2"
    torch.export.save(program, path)
    model = load(path)
    assert model.name == "block"
    assert_computes_its_reference(model)


def test_training_mode() -> None:
    with pytest.raises(FrontendError) as error:
        load(Block(), inputs=(torch.randn(2, 8, 16),))
    assert str(error.value) == "Block: the module is in training mode\nhelp: call eval() first"


def test_wrong_inputs() -> None:
    with pytest.raises(FrontendError) as error:
        load(Block().eval(), inputs=(torch.randn(2, 8, 17),))
    assert error.value.message.startswith("Block: torch.export failed: ")


def test_not_an_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(FrontendError) as error:
        load(path)
    assert error.value.message.startswith(f"{path}: not a file of torch.export: ")


def test_dynamic_shape() -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Block().eval(), (torch.randn(2, 8, 16),), dynamic_shapes=({0: batch},)
    )
    with pytest.raises(FrontendError) as error:
        load(program)
    assert "dimension 0 of input 'x' is dynamic" in error.value.message


def test_bert() -> None:
    """Its position ids are a non-persistent buffer, which importers stumbled over."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        attn_implementation="eager",
    )
    model = load(transformers.BertModel(config).eval(), inputs=(torch.tensor([[1, 2, 3, 4]]),))
    assert [s.name for s in model.outputs] == ["last_hidden_state", "pooler_output"]
    assert_computes_its_reference(model)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: torch.topk(x, 2).values,
            "Module: at 'topk': the operator sorts, which cannot be compiled",
        ),
        (
            lambda x: x.nonzero(),
            "Module: 'tensor.extract_slice' makes a tensor<?xi64>, but every shape must be known "
            "when the model is compiled",
        ),
        (
            lambda x: x + torch.rand(4, 4),
            "Module: at 'rand': the operator draws random numbers or keeps state, "
            "which cannot be compiled",
        ),
        (lambda x: x.add_(1.0), "Module: the module changes its input 'x' in place"),
        (
            lambda x: torch.linalg.svd(x)[1],
            "Module: at '_linalg_svd': operator 'aten._linalg_svd' on f32[4,4] is not supported "
            "by the importer",
        ),
        (
            lambda x: torch.fft.fft(x).real,
            "Module: at 'fft_fft': operator 'fft_fft' is not supported by the importer",
        ),
    ],
)
def test_refused(function: object, message: str) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return function(x)

    with pytest.raises(FrontendError) as error:
        load(Module().eval(), inputs=(torch.randn(4, 4),))
    assert error.value.message == message
    assert error.value.help


def test_recurrent_network() -> None:
    model = load(torch.nn.LSTM(4, 8).eval(), inputs=(torch.randn(3, 4),))
    assert [s.name for s in model.outputs] == ["output0", "output1.0", "output1.1"]
    assert_computes_its_reference(model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtypes(dtype: str) -> None:
    module = torch.nn.Linear(16, 8).eval().to(getattr(torch, dtype))
    model = load(module, inputs=(torch.randn(4, 16, dtype=getattr(torch, dtype)),))
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(model.inputs[0].dtype)
    (expected,) = model.run_reference({"input": x}).values()
    run_pipeline(model.module, NORMALIZE_PIPELINE)
    single = x.astype("f4") if dtype == "float64" else x
    (found,) = evaluate(model.module, {"input": single}).values()
    assert model.inputs[0].dtype == model.outputs[0].dtype == expected.dtype
    np.testing.assert_allclose(found.astype("f8"), expected.astype("f8"), rtol=2e-2, atol=2e-2)
