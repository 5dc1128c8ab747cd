"""Plans of random graphs are as good as those of a search that leaves nothing out.

Hundreds of graphs: benchmarks/plan_quality.py.
"""

import pytest
from plan_quality import compare


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(1005, id="groups that move no more than they must make room for what follows"),
        pytest.param(1045, id="all loops of groups of few operators are tried"),
    ],
)
def test_once_worse_than_an_exhaustive_search(seed: int) -> None:
    found = compare(seed)
    assert found is not None
    assert found[0] == found[1]
