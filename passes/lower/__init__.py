"""Lowering to the npu dialect: bind the machine, lay out weights, emit kernels."""
