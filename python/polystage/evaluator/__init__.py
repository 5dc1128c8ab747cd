"""What operations compute, in numpy: scalar bodies, iteration boxes, whole modules.

The simulator executes npu instructions with it, the compiler folds constants with it, and tests
compare programs before and after a pass.
"""
