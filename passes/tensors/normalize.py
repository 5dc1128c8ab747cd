"""The way from an imported model to `buffers` form."""

# Every line is a step; the order matters where a reason is given.
_STEPS = (
    "canonicalize,cse,drop-assertions,demote-doubles,expand-scans,canonicalize,cse",
    "convert-tensor-to-linalg,linalg-generalize-named-ops,expand-powers",
    "math-expand-ops{ops=powf,fpowi,clampf}",
    "fold-constants,canonicalize,cse",
    "separate-biases,separate-fills,fold-batch-norm",
    "protect-contractions,linalg-fuse-elementwise-ops,drop-copies,canonicalize,cse",
    "separate-fills,eliminate-empty-tensors",
    "one-shot-bufferize{bufferize-function-boundaries "
    "function-boundary-type-conversion=identity-layout-map}",
    "linalg-generalize-named-ops,canonicalize,cse,canonicalize",
)

NORMALIZE = ",".join(_STEPS)
"""The passes as `pipeline.py` puts them into the default pipeline."""

NORMALIZE_PIPELINE = f"builtin.module({NORMALIZE})"
