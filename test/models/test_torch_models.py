"""Small models of every kind from transformers configurations: our outputs are PyTorch eager's.

In full size: benchmarks/torch_models.py.
"""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch_models


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", torch_models.MODELS)
def test_small_model_equals_pytorch(name):
    assert torch_models.measure(name, small=True).error < 1e-4
