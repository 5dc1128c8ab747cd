"""The model's own reference: what the framework that it came from computes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from polystage.errors import PolystageError

_LARGE_BYTES = 1 << 30


def onnxruntime_run(
    model: onnx.ModelProto | str | Path, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the outputs of an ONNX model by name, as onnxruntime computes them.

    Raises: PolystageError where onnxruntime does not take the model.
    """
    import onnxruntime  # lazy: start-up time

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
        output = module(*(_to_torch(torch, np.array(a)) for a in inputs))
    leaves = [leaf for leaf in _pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    return [_to_numpy(torch, leaf.detach().cpu()) for leaf in leaves]


def _to_torch(torch: Any, array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
