"""A JAX attention block, as StableHLO text and as portable artifact: the result is JAX's."""

import numpy as np
import pytest

import polystage as ps

jax = pytest.importorskip("jax")
jnp = jax.numpy

SEQUENCE, WIDTH, HEADS = 24, 32, 4


def attention_block(x, parameters):
    """Pre-norm attention and feed-forward network, each with a residual connection."""
    y = x + attention(layer_norm(x), parameters)
    hidden = jax.nn.gelu(layer_norm(y) @ parameters["up"], approximate=False)
    return y + hidden @ parameters["down"]


def attention(x, parameters):
    def heads(weight):
        return (x @ parameters[weight]).reshape(SEQUENCE, HEADS, -1).transpose(1, 0, 2)

    queries, keys, values = heads("query"), heads("key"), heads("value")
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(WIDTH / HEADS)
    causal = jnp.tril(jnp.ones((SEQUENCE, SEQUENCE), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    mixed = (weights @ values).transpose(1, 0, 2).reshape(SEQUENCE, WIDTH)
    return mixed @ parameters["output"]


def layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


@pytest.fixture(scope="module")
def block():
    random = np.random.default_rng(0)
    shapes = dict.fromkeys(("query", "key", "value", "output"), (WIDTH, WIDTH))
    shapes |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    parameters = {
        name: random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
        for name, shape in shapes.items()
    }
    x = random.standard_normal((SEQUENCE, WIDTH), np.float32)

    def function(x):
        return attention_block(x, parameters)

    return function, x


@pytest.fixture(scope="module", params=["text", "artifact", "function"])
def model(request, block, tmp_path_factory):
    function, x = block
    if request.param == "function":
        return ps.load(function, inputs=[x])
    exported = jax.export.export(jax.jit(function))(x)
    path = tmp_path_factory.mktemp("jax") / "block.mlir"
    if request.param == "text":
        path.write_text(exported.mlir_module())
    else:
        path = path.with_suffix(".mlirbc")
        path.write_bytes(exported.mlir_module_serialized)
    return ps.load(path)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-4), ("bf16", 5e-2)])
def test_simulated_block_equals_jax(model, block, dtype, tolerance):
    function, x = block
    program = ps.compile(model.module, target="neuroncore_v2", dtype=dtype)
    (actual,) = ps.simulate(program, {model.inputs[0].name: x}).outputs.values()
    expected = np.asarray(function(x))
    error = np.abs(actual.astype(np.float32) - expected).max() / np.abs(expected).max()
    assert error < tolerance
