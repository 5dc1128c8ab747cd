"""What a model should compute, by means that share nothing with our compiler."""

from polystage.reference.jit import jit_run
from polystage.reference.runtimes import onnxruntime_run, torch_run

__all__ = ["jit_run", "onnxruntime_run", "torch_run"]
