"""PyTorch models from `transformers` configurations, random weights, simulated in f32.

No download: every model is built from its configuration, and its weights are drawn so that what
comes in is seen in what comes out. A model passes if the simulated output is PyTorch eager's within
a relative error of 1e-3 (largest difference over largest magnitude). Exit code 1 if one does not.

    python benchmarks/torch_models.py [MODEL ...]
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from chain import Simulated, compile_and_simulate, largest_error
from torch import nn

import polystage as ps

TOLERANCE = 1e-3
EAGER = {"attn_implementation": "eager"}


class Output(nn.Module):
    """A model of which only one output is wanted."""

    def __init__(self, model: nn.Module, output: str, **options: Any) -> None:
        super().__init__()
        self.model, self.output, self.options = model, output, options

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output."""
        return getattr(self.model(inputs, return_dict=True, **self.options), self.output)


Built = tuple[nn.Module, torch.Tensor]
"""A model and an input of it."""


def image(extent: int = 224) -> torch.Tensor:
    return torch.randn(1, 3, extent, extent)


def resnet50(small: bool) -> Built:
    sizes = {"embedding_size": 16, "hidden_sizes": [32, 48], "depths": [2, 2]} if small else {}
    config = transformers.ResNetConfig(**sizes)
    return Output(transformers.ResNetForImageClassification(config), "logits"), image(
        48 if small else 224
    )


def mobilenetv2(small: bool, classes: int = 2) -> Built:
    sizes = {"depth_multiplier": 0.35, "image_size": 64} if small else {"num_labels": classes}
    config = transformers.MobileNetV2Config(**sizes)
    return Output(transformers.MobileNetV2ForImageClassification(config), "logits"), image(
        config.image_size
    )


def vit_base(small: bool) -> Built:
    sizes = (
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "image_size": 48,
        }
        if small
        else {}
    )
    config = transformers.ViTConfig(**sizes, **EAGER)
    return Output(transformers.ViTForImageClassification(config), "logits"), image(
        config.image_size
    )


def efficientnet_b0(small: bool) -> Built:
    sizes = (
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320} if small else {}
    )
    extent = 64 if small else 224
    b0 = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
    config = transformers.EfficientNetConfig(**{**b0, **sizes}, image_size=extent)
    return Output(transformers.EfficientNetForImageClassification(config), "logits"), image(extent)


def convnext_tiny(small: bool) -> Built:
    sizes = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]} if small else {}
    config = transformers.ConvNextConfig(**sizes)
    return Output(transformers.ConvNextForImageClassification(config), "logits"), image(
        64 if small else 224
    )


def segformer_b0(small: bool) -> Built:
    sizes = {"depths": [1, 1, 1, 1], "decoder_hidden_size": 32} if small else {}
    config = transformers.SegformerConfig(**sizes)
    return Output(transformers.SegformerForSemanticSegmentation(config), "logits"), image(
        64 if small else 224
    )


def wav2vec2(small: bool) -> Built:
    sizes = (
        {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "conv_dim": (16,) * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        }
        if small
        else {}
    )
    config = transformers.Wav2Vec2Config(num_hidden_layers=2, **sizes, **EAGER)
    samples = torch.randn(1, 2000 if small else 16000)
    return Output(transformers.Wav2Vec2ForCTC(config), "logits"), samples


def gpt2(small: bool, layers: int = 12) -> Built:
    sizes = (
        {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 200}
        if small
        else {"n_layer": layers}
    )
    config = transformers.GPT2Config(use_cache=False, **sizes, **EAGER)
    tokens = torch.randint(0, config.vocab_size, (1, 12 if small else 64))
    return Output(transformers.GPT2LMHeadModel(config), "logits", use_cache=False), tokens


def bert(small: bool, length: int = 64, layers: int = 12) -> Built:
    sizes = (
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "vocab_size": 200,
        }
        if small
        else {"num_hidden_layers": layers}
    )
    config = transformers.BertConfig(**sizes, **EAGER)
    tokens = torch.randint(0, config.vocab_size, (1, 12 if small else length))
    return Output(transformers.BertModel(config), "last_hidden_state"), tokens


MODELS: dict[str, Callable[[bool], Built]] = {
    "resnet50": resnet50,
    "mobilenetv2": mobilenetv2,
    "mobilenetv2_1000": partial(mobilenetv2, classes=1000),
    "vit_base": vit_base,
    "efficientnet_b0": efficientnet_b0,
    "convnext_tiny": convnext_tiny,
    "segformer_b0": segformer_b0,
    "wav2vec2": wav2vec2,
    "gpt2": gpt2,
    "bert": bert,
    "bert_128": partial(bert, length=128),
    "bert_512": partial(bert, length=512),
}


def build(name: str, small: bool = False) -> Built:
    """Return a model in evaluation mode, and a random input."""
    torch.manual_seed(0)
    model, inputs = MODELS[name](small)
    with torch.no_grad():
        draw_parameters(model)
        observe_statistics(model, inputs)
    return model.eval(), inputs


def reference(module: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Return what PyTorch eager computes, which must depend on the input."""
    changed = inputs.flip(-1) / 2 if inputs.is_floating_point() else inputs.flip(-1)
    with torch.no_grad():
        expected, other = module(inputs).numpy(), module(changed).numpy()
    assert np.isfinite(expected).all()
    assert largest_error(other, expected) > 0.01, "the output would show nothing"
    return expected


def draw_parameters(model: nn.Module) -> None:
    """Draw weights under which activations keep their size, and nothing is left at 0 or 1.

    The constructors' own are so small that the input hardly reaches the output of a deep network.
    """
    for module in model.modules():
        if isinstance(
            module, nn.Conv1d | nn.Conv2d | nn.Linear | transformers.pytorch_utils.Conv1D
        ):
            weight = module.weight
            transposed = isinstance(module, transformers.pytorch_utils.Conv1D)
            fan_in = len(weight) if transposed else weight[0].numel()
            gain = 1 if isinstance(module, nn.Linear) else 2
            nn.init.normal_(weight, std=(gain / fan_in) ** 0.5)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.ndim == 1 and value.is_floating_point():
            if name.endswith(("weight", "running_var")):
                value.uniform_(0.8, 1.2)
            else:
                value.normal_(std=0.1)


def observe_statistics(model: nn.Module, inputs: torch.Tensor) -> None:
    """Set the statistics of batch normalisations to those of the input, as training would."""
    normalisations = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in normalisations:
        module.momentum = 1.0
    if normalisations:
        model.train()(inputs)


@dataclass(frozen=True)
class Row:
    """The figures of one model."""

    import_s: float
    run: Simulated
    error: float

    @property
    def passed(self) -> bool:
        """Return whether the output is PyTorch's; a NaN is not."""
        return self.error < TOLERANCE


def measure(name: str, small: bool = False) -> Row:
    """Compare a model with PyTorch eager."""
    module, inputs = build(name, small)
    expected = reference(module, inputs)
    start = time.perf_counter()
    model = ps.load(module, inputs=[inputs], name=name)
    import_s = time.perf_counter() - start
    run = compile_and_simulate(model, {model.inputs[0].name: inputs.numpy()}, "f32")
    return Row(import_s, run, largest_error(run.output(model), expected))


def main(names: Sequence[str]) -> int:
    print(
        f"{'model':16} {'import s':>9} {'compile s':>10} {'simulate s':>11} {'instructions':>13} "
        f"{'latency us':>11} {'bound us':>9} {'error':>8}"
    )
    missed = 0
    for name in names or MODELS:
        try:
            row = measure(name)
        except ps.PolystageError as error:
            print(f"{name:16} {error}", flush=True)
            missed += 1
            continue
        totals = row.run.result.totals
        print(
            f"{name:16} {row.import_s:9.2f} {row.run.compile_s:10.2f} {row.run.simulate_s:11.2f} "
            f"{totals.instruction_count:13,} {totals.latency_us:11.1f} "
            f"{totals.latency_bound_us:9.1f} {row.error:8.1e}" + ("" if row.passed else " MISSED"),
            flush=True,
        )
        missed += not row.passed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
