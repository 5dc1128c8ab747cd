"""The way from an imported model to `buffers` form."""

# Every line is a step; the order matters where a reason is given.
_STEPS = (
    "canonicalize,cse,drop-assertions,demote-doubles,expand-scans,canonicalize,cse",
    "linalg-generalize-named-ops,fold-constants,canonicalize,cse",
    "linalg-fuse-elementwise-ops,canonicalize,cse",
    "eliminate-empty-tensors",
    "one-shot-bufferize{bufferize-function-boundaries "
    "function-boundary-type-conversion=identity-layout-map}",
    "canonicalize,cse",
)

NORMALIZE = ",".join(_STEPS)
"""The passes as `pipeline.py` puts them into the default pipeline."""

NORMALIZE_PIPELINE = f"builtin.module({NORMALIZE})"
