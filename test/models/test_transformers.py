"""Small transformers on a partitioned target: one kernel from the embedding to the result, whose
arrays stay on chip, computes what PyTorch computes."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import polystage as ps
from polystage.mlir import func

VOCABULARY = 50


class Attention(nn.Module):
    def __init__(self, width, heads, fused, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.fused = nn.Linear(width, 3 * width) if fused else None
        self.parts = nn.ModuleList(nn.Linear(width, width) for _ in range(0 if fused else 3))
        self.out = nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        if self.fused is not None:
            parts = self.fused(x).split(width, dim=-1)
        else:
            parts = [part(x) for part in self.parts]
        q, k, v = (p.view(batch, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        if self.causal:
            scores = scores + torch.full((tokens, tokens), -1e9).triu(1)
        y = torch.softmax(scores, dim=-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Layer(nn.Module):
    def __init__(self, width, heads, norm_first, fused, causal):
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(width, heads, fused, causal)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def mlp(self, x):
        return self.down(nn.functional.gelu(self.up(x)))

    def forward(self, x):
        first, second = self.norms
        if self.norm_first:
            x = x + self.attention(first(x))
            return x + self.mlp(second(x))
        x = first(x + self.attention(x))
        return second(x + self.mlp(x))


class Transformer(nn.Module):
    def __init__(self, tokens, width, heads, layers=1, norm_first=False, fused=False, causal=False):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(torch.randn(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            Layer(width, heads, norm_first, fused, causal) for _ in range(layers)
        )

    def forward(self, ids):
        x = self.norm(self.embed(ids) + self.position)
        for layer in self.layers:
            x = layer(x)
        return x


class Patches(nn.Module):
    """A transformer of image patches and a token of its own, of which one is classified."""

    def __init__(self, width=192, heads=3, size=6):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, size * size + 1, width))
        self.layer = Layer(width, heads, norm_first=True, fused=False, causal=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token, x], dim=1) + self.position
        return self.head(self.norm(self.layer(x))[:, 0])


KINDS = {
    "like BERT": {"tokens": 40, "width": 128, "heads": 2, "layers": 2},
    "like ViT": {"tokens": 150, "width": 192, "heads": 6, "norm_first": True},
    "like GPT-2": {
        "tokens": 40,
        "width": 128,
        "heads": 2,
        "norm_first": True,
        "fused": True,
        "causal": True,
    },
}
"""More tokens than partitions, features that are no multiple of them, parts of one array."""


def with_parameters(net):
    """Return a module whose biases and norms matter."""
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.3, 0.3)
    return net.eval()


def compiled(net, example, dtype):
    """Return the program of a module, its result, the error of that, and the bytes of a value."""
    with torch.no_grad():
        expected = net(example).numpy()
    imported = ps.load(net, inputs=[example], name="transformer")
    program = ps.compile(imported.module, target="neuroncore_v2", dtype=dtype, objective="latency")
    result = ps.simulate(program, {imported.inputs[0].name: example.numpy()})
    (found,) = (np.asarray(value, np.float32) for value in result.outputs.values())
    error = np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected)
    return program, result, error, expected.size * {"f32": 4, "bf16": 2}[dtype]


PRECISION = {"f32": 1e-5, "bf16": 0.02}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "dtype"), [*((k, "bf16") for k in KINDS), ("like GPT-2", "f32")])
def test_a_transformer_runs_on_chip(kind, dtype):
    torch.manual_seed(0)
    net = with_parameters(Transformer(**KINDS[kind]))
    ids = torch.randint(0, VOCABULARY, (1, KINDS[kind]["tokens"]))
    program, result, error, size = compiled(net, ids, dtype)
    assert error < PRECISION[dtype]
    assert _calls(program) == 2, "the embedding, and all that follows"
    assert result.totals.dram_write_by_cause == {"intermediate": size, "output": size}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", PRECISION)
def test_patches_and_a_token_of_its_own_are_one_array_on_chip(dtype):
    torch.manual_seed(0)
    net = with_parameters(Patches())
    program, result, error, size = compiled(net, torch.randn(1, 3, 48, 48), dtype)
    assert error < PRECISION[dtype]
    assert _calls(program) == 1
    assert result.totals.dram_write_by_cause == {"output": size}


def _calls(program):
    operations = _main(program).entry_block.operations
    return sum(isinstance(op, func.CallOp) for op in operations)


def _main(program):
    functions = [op for op in program.body.operations if isinstance(op, func.FuncOp)]
    return next(f for f in functions if f.name.value == "main")
