"""The way from an imported model to `buffers` form, as lists of passes with their reasons."""

PREPARE = (
    # What the machine cannot do: stop, compute in f64, scan one by one, take powers.
    "canonicalize,cse,drop-assertions,demote-doubles,expand-scans,decompose-softmax,"
    "canonicalize,cse,"
    "convert-elementwise-to-linalg,convert-tensor-to-linalg,linalg-generalize-named-ops,"
    "expand-powers,"
    "math-expand-ops{ops=powf,fpowi,clampf},"
    # Weights: what depends on them alone, and the scales of batch norms. Before fusion, which hides
    # them in larger bodies; biases first, since a batch norm folds into what starts from zero.
    "fold-constants,canonicalize,cse,"
    "separate-biases,separate-fills,fold-batch-norm,canonicalize"
)
"""From an imported model to linalg on tensors with one operation per operator."""

FUSE_ELEMENTWISE = (
    # Elementwise chains, without touching contractions.
    "protect-contractions,linalg-fuse-elementwise-ops,drop-copies,canonicalize,cse,"
    # One fill per user, else bufferization fills one buffer and copies it.
    "separate-fills"
)
"""Fewer operations, by upstream's means. Where results lie is left to poly-eliminate-copies, which
sees all of them at once (upstream's eliminate-empty-tensors would place some)."""

BUFFERIZE = (
    "carry-in-place,keep-arguments,"
    "one-shot-bufferize{bufferize-function-boundaries "
    "function-boundary-type-conversion=identity-layout-map},"
    "linalg-generalize-named-ops,canonicalize,cse,canonicalize,"
    # Programs that came as loops over memrefs.
    "raise-affine-to-linalg"
)
"""To memrefs, every copy explicit."""

NORMALIZE = f"{PREPARE},{FUSE_ELEMENTWISE},{BUFFERIZE}"
"""The passes as `pipeline.py` puts them into the default pipeline."""

NORMALIZE_PIPELINE = f"builtin.module({NORMALIZE})"
