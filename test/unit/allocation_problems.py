"""Problems of allocation whose answers are known, and what makes an answer valid."""

import random
from itertools import combinations

from hypothesis import strategies as st

from polystage.allocation import Buffer
from polystage.compiled import BUILT

CORES = ["python", "compiled"] if BUILT else ["python"]


def assert_apart(buffers, addresses):
    """Fail where buffers that live at the same time share a byte, or an address is not allowed."""
    for buffer, address in zip(buffers, addresses, strict=True):
        assert address >= 0
        assert address % buffer.alignment == 0
        assert buffer.address in (None, address)
    for (a, first), (b, second) in combinations(zip(addresses, buffers, strict=True), 2):
        apart = a + first.size <= b or b + second.size <= a
        assert apart or not first.overlaps(second), (first, a, second, b)


@st.composite
def buffer_lists(draw, most=6, fixed=True):
    """Return a few buffers, some with gaps and alignment, one perhaps with an address."""
    buffers = []
    for i in range(draw(st.integers(1, most))):
        start, length = draw(st.integers(0, 7)), draw(st.integers(1, 5))
        gap = draw(st.integers(1, 2)) if length > 3 and draw(st.booleans()) else 0
        buffers.append(
            Buffer(
                f"b{i}",
                start,
                start + length,
                draw(st.integers(1, 9)),
                gaps=((start + 1, start + 1 + gap),) if gap else (),
                alignment=draw(st.sampled_from([1, 1, 2, 4])),
                address=draw(st.sampled_from([0, 4, 8])) if fixed and i == 0 else None,
            )
        )
    return buffers


def perfect_packing(count, seed, height=1024, hints=False):
    """Return buffers that fill `height` bytes without a gap, all of the time: a rectangle cut into
    about `count` pieces, straight through or around a piece in the middle. `hints` tells where they
    were cut from."""
    chosen = random.Random(seed)
    pieces = []

    def cut(box, count):
        start, end, low, high = box
        width, bytes_ = end - start, high - low
        if count <= 1 or (width < 2 and bytes_ < 2):
            pieces.append(box)
        elif width >= 3 and bytes_ >= 3 and count >= 5 and chosen.random() < 0.4:
            a, b = sorted(chosen.sample(range(start + 1, end), 2))
            c, d = sorted(chosen.sample(range(low + 1, high), 2))
            around = [(start, b, low, c), (b, end, low, d), (a, end, d, high), (start, a, c, high)]
            for piece in [*around, (a, b, c, d)]:
                cut(piece, count // 5)
        else:
            share = chosen.randrange(1, count)
            if (chosen.random() < 0.5 and width > 1) or bytes_ < 2:
                at = chosen.randrange(start + 1, end)
                halves = (start, at, low, high), (at, end, low, high)
            else:
                at = chosen.randrange(low + 1, high)
                halves = (start, end, low, at), (start, end, at, high)
            cut(halves[0], share)
            cut(halves[1], count - share)

    cut((0, 4 * count, 0, height), count)
    chosen.shuffle(pieces)
    return [
        Buffer(f"b{i}", start, end, high - low, hint=low if hints else None)
        for i, (start, end, low, high) in enumerate(pieces)
    ]


def random_buffers(count, seed=0):
    """Return buffers of which most live shortly."""
    chosen = random.Random(seed)
    buffers = []
    for i in range(count):
        start = chosen.randrange(2 * count)
        mean = 20 if chosen.random() < 0.9 else count / 10
        size = chosen.choice([1, 2, 3, 4, 7, 16]) * chosen.choice([64, 1024, 4096])
        buffers.append(Buffer(f"b{i}", start, start + 1 + int(chosen.expovariate(1 / mean)), size))
    return buffers
