"""The Parallel-WaveNet-like model: its size, and that we compute what PyTorch does."""

import pytest

pytest.importorskip("torch")

import torch
from chain import clone, compile_and_simulate, largest_error, run_passes
from models import parallel_wavenet as wavenet

import polystage as ps
from polystage.passes.tensors.normalize import BUFFERIZE, PREPARE
from polystage.polyhedral import TensorProgram
from polystage.reference import jit_run

PAPER_PAIRS = 124


def imported(sizes):
    module, inputs = wavenet.build(sizes)
    model = ps.load(module, inputs=inputs, name="parallel_wavenet")
    return module, inputs, model


def pairs(module):
    program = TensorProgram.from_module(module)
    return sum(s.kind == "copy" for s in program.statements)


@pytest.mark.filterwarnings("ignore")
def test_small_model_equals_pytorch():
    module, inputs, model = imported(wavenet.SMALL)
    with torch.no_grad():
        expected = module(*inputs).numpy()
    arrays = {s.name: a.numpy() for s, a in zip(model.inputs, inputs, strict=True)}
    run = compile_and_simulate(model, arrays, "f32")
    assert largest_error(run.output(model), expected) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_published_size_moves_as_much_data_as_the_paper_says():
    _, _, model = imported(wavenet.Sizes())
    run_passes(model.module, f"{PREPARE},{BUFFERIZE}")
    assert pairs(model.module) >= PAPER_PAIRS


def test_sound_depends_on_the_past_only():
    module, (noise, features, speaker) = wavenet.build(wavenet.SMALL)
    changed = noise.clone()
    changed[:, 10:] += 1
    with torch.no_grad():
        before, after = module(noise, features, speaker), module(changed, features, speaker)
    assert torch.equal(before[:, :10], after[:, :10])
    assert (before != after)[:, 10:].all()


@pytest.mark.parametrize("dilation", [2, 4, 5])
def test_time_in_the_batch_is_a_dilated_convolution(dilation):
    conv = wavenet.CausalConv(3, 2, dilation)
    value = torch.randn(1, 13, 3)
    plain = conv.conv.conv
    padded = torch.nn.functional.pad(value.transpose(1, 2), (2 * dilation, 0))
    expected = torch.nn.functional.conv1d(padded, plain.weight, plain.bias, dilation=dilation)
    with torch.no_grad():
        assert torch.allclose(conv(value), expected.transpose(1, 2), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_elimination_of_copies_keeps_every_bit():
    _, inputs, model = imported(wavenet.SMALL)
    arrays = {s.name: a.numpy() for s, a in zip(model.inputs, inputs, strict=True)}
    before, after = clone(model.module), clone(model.module)
    run_passes(before, f"{PREPARE},{BUFFERIZE}")
    record = run_passes(after, f"{PREPARE},{BUFFERIZE},poly-eliminate-copies")[-1]
    assert pairs(after) == 1  # the speaker, repeated along time for the tensor engine
    survivors = {k: n for k, n in record.statistics.items() if k.startswith("survivors")}
    assert survivors == {"survivors: the tensor engine cannot repeat an operand": 1}
    assert jit_run(after, arrays)[0].tobytes() == jit_run(before, arrays)[0].tobytes()
