"""Everything else on the vector, scalar and gpsimd engines, which work lane by lane."""
