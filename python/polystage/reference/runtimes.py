"""The model's own reference: what the framework that it came from computes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from polystage.errors import PolystageError

_LARGE_BYTES = 1 << 30


def onnxruntime_run(
    model: onnx.ModelProto | str | Path, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the outputs of an ONNX model by name, as onnxruntime computes them.

    Raises: PolystageError where onnxruntime does not take the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        wanted = {i.name for i in session.get_inputs()}
        values = session.run(names, {k: v for k, v in inputs.items() if k in wanted})
    except Exception as error:  # onnxruntime has no public base class
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise PolystageError(f"onnxruntime: {str(error).splitlines()[0]}") from None
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def torch_run(module: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the tensors that a torch module returns, in order, as PyTorch eager computes them."""
    import torch
    from torch.utils import _pytree

    with torch.no_grad():
        output = module(*(torch.from_numpy(np.array(a)) for a in inputs))
    leaves = _pytree.tree_leaves(output)
    return [leaf.detach().cpu().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
