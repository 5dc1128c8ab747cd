// RUN: not %polystage-opt --raise-affine-to-linalg=unroll-limit=3 --split-input-file --verify-diagnostics %s 2>&1 | filecheck %s
