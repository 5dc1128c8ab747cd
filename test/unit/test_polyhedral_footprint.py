"""Footprints in closed form against counting the elements."""

import itertools

import islpy as isl
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polystage.polyhedral import access_footprint, footprint


def test_footprint_is_the_image_of_the_domain() -> None:
    domain = isl.Set("{ S[i, k] : 0 <= i < 4 and 0 <= k < 3 }")
    touched = footprint(domain, isl.Map("{ S[i, k] -> A[i + k] }"))
    assert touched.is_equal(isl.Set("{ A[i] : 0 <= i < 6 }"))


CONVOLUTION = isl.Map(
    "{ S[n, m, h, w, c, kh, kw] -> X[n, c, 2h + kh, 2w + kw] : 0 <= n < 1 and 0 <= m < 64"
    " and 0 <= h < 28 and 0 <= w < 28 and 0 <= c < 32 and 0 <= kh < 3 and 0 <= kw < 3 }"
)


def test_convolution_of_stride_two_reads_two_rows_per_row_and_one() -> None:
    form = access_footprint(CONVOLUTION, ("n", "m", "h", "w", "c", "kh", "kw"))
    assert [extent.text for extent in form.extent] == [
        "1",  # there is only one n
        "tc",
        "2*th + tkh - 2",
        "2*tw + tkw - 2",
    ]
    assert [lower.text for lower in form.lower] == ["0", "c0", "2*h0 + kh0", "2*w0 + kw0"]
    heights = np.arange(1, 8)
    sizes = np.array([[1, 64, th, 7, 32, 3, 3] for th in heights])
    origins = np.zeros(7, dtype=int)
    np.testing.assert_array_equal(form.extents(origins, sizes)[:, 2], 2 * heights + 1)
    np.testing.assert_array_equal(form.elements(origins, sizes), 32 * (2 * heights + 1) * 15)


def test_one_by_one_convolution_of_stride_two_skips_every_other_row() -> None:
    relation = isl.Map("{ S[h] -> X[2h] : 0 <= h < 8 }")
    form = access_footprint(relation, ("h",))
    assert form.steps == (2,)
    assert form.extents([0], [4]).tolist() == [7]
    assert form.elements([0], [4]) == 4


def test_many_tilings_at_once_have_any_leading_axes() -> None:
    form = access_footprint(isl.Map("{ S[i, j] -> A[i + j, 3] : 0 <= i, j < 9 }"), ("i", "j"))
    origins = np.zeros((5, 1, 2), dtype=int)
    sizes = np.random.default_rng(0).integers(1, 5, (1, 7, 2))
    assert form.extents(origins, sizes).shape == (5, 7, 2)
    assert form.elements(origins, sizes).shape == (5, 7)


def test_triangular_domain_bounds_the_tile() -> None:
    form = access_footprint(isl.Map("{ S[i, j] -> A[j] : 0 <= i < 9 and i <= j < 9 }"), ("i", "j"))
    assert form.lowers([3, 0], [2, 9]).tolist() == [3]
    assert form.extents([3, 0], [2, 9]).tolist() == [6]


EXTENTS = (6, 5, 4)


def exprs() -> st.SearchStrategy[str]:
    linear = st.tuples(*[st.integers(0, 3)] * 3, st.integers(0, 4)).map(
        lambda c: f"{c[0]}i + {c[1]}j + {c[2]}k + {c[3]}"
    )
    divided = st.tuples(linear, st.integers(2, 6), st.booleans()).map(
        lambda d: f"floor(({d[0]})/{d[1]})" if d[2] else f"({d[0]}) mod {d[1]}"
    )
    return st.one_of(linear, divided)


@settings(max_examples=100, deadline=None)
@given(st.lists(exprs(), min_size=1, max_size=2), st.data())
def test_closed_form_is_the_box_around_the_touched_elements(
    results: list[str], choose: st.DataObject
) -> None:
    bounds = " and ".join(f"0 <= {d} < {n}" for d, n in zip("ijk", EXTENTS, strict=True))
    relation = isl.Map(f"{{ S[i, j, k] -> A[{', '.join(results)}] : {bounds} }}")
    form = access_footprint(relation, ("i", "j", "k"))
    tiles = []
    for extent in EXTENTS:
        origin = choose.draw(st.integers(0, extent - 1))
        tiles.append((origin, choose.draw(st.integers(1, extent - origin))))
    origin, size = np.array(tiles).T
    touched = points(relation, tiles)
    low, high = touched.min(axis=0), touched.max(axis=0)
    np.testing.assert_array_equal(form.lowers(origin, size), low)
    np.testing.assert_array_equal(form.extents(origin, size), high - low + 1)
    assert form.elements(origin, size) >= len(np.unique(touched, axis=0))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)
)
def test_window_count_is_exact(
    stride: int, dilation: int, taps: int, height: int, channels: int
) -> None:
    """Exact wherever the taps fill the window, or there is only one tap."""
    assume(taps == 1 or (dilation == 1 and stride <= taps))
    relation = isl.Map(
        f"{{ S[h, k, c] -> A[c, {stride}h + {dilation}k] : 0 <= h < 9 and 0 <= k < {taps}"
        " and 0 <= c < 4 }"
    )
    form = access_footprint(relation, ("h", "k", "c"))
    tiles = [(2, height), (0, taps), (0, channels)]
    origin, size = np.array(tiles).T
    assert form.elements(origin, size) == len(np.unique(points(relation, tiles), axis=0))


def points(relation: isl.Map, tiles: list[tuple[int, int]]) -> np.ndarray:
    """Return the elements that every instance of the tile touches, by walking it."""
    found = []
    for index in itertools.product(*(range(o, o + n) for o, n in tiles)):
        point = relation
        for dim, value in enumerate(index):
            point = point.fix_val(isl.dim_type.in_, dim, isl.Val(value))
        sample = point.range().sample_point()
        rank = relation.dim(isl.dim_type.out)
        found.append(
            [sample.get_coordinate_val(isl.dim_type.set, d).to_python() for d in range(rank)]
        )
    return np.array(found)
