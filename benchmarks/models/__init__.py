"""Every model that benchmarks measure, by name.

`light/NAME`: the light models of the onnx package with random weights; `torch/NAME`: those of
`torch_models`; `parallel_wavenet`; `small/NAME`: the cases of `small_cases`.
"""

from collections.abc import Callable, Mapping

import light_models
import onnx

import polystage as ps
from models import small_cases
from polystage.frontends import ImportedModel


def light(name: str, batch: int | None = None) -> ImportedModel:
    model = onnx.load(light_models.light_path(name))
    return ps.load(light_models.with_random_weights(model), batch=batch)


def torch(name: str, batch: int | None = None) -> ImportedModel:
    import torch_models  # PyTorch is optional, and slow to import

    module, inputs = torch_models.build(name)
    return ps.load(module, inputs=[inputs], name=name, batch=batch)


def wavenet(name: str, batch: int | None = None) -> ImportedModel:
    from models import parallel_wavenet

    module, inputs = parallel_wavenet.build()
    return ps.load(module, inputs=inputs, name=name, batch=batch)


def small(name: str, batch: int | None = None) -> ImportedModel:
    if batch is not None:
        raise ValueError(f"small/{name} has the shapes that its case is about")
    return small_cases.CASES[name]()


TORCH_MODELS = (
    "resnet50",
    "mobilenetv2",
    "mobilenetv2_1000",
    "vit_base",
    "efficientnet_b0",
    "convnext_tiny",
    "segformer_b0",
    "wav2vec2",
    "gpt2",
    "bert",
    "bert_128",
    "bert_512",
)
"""The keys of `torch_models.MODELS`, which need not be imported for a list."""

MODELS: Mapping[str, Callable[[str, int | None], ImportedModel]] = {
    **{f"light/{name}": light for name in light_models.MODELS},
    **{f"torch/{name}": torch for name in TORCH_MODELS},
    "parallel_wavenet": wavenet,
    **{f"small/{name}": small for name in small_cases.CASES},
}


def load(name: str, batch: int | None = None) -> ImportedModel:
    """Import the model called `name`, with random weights where it has any, and another batch."""
    return MODELS[name](name.rpartition("/")[2], batch)


def matching(name: str) -> list[str]:
    """Return the models called `name`, with or without the group before it."""
    return [model for model in MODELS if name in (model, model.rpartition("/")[2])]
