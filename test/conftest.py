"""What tests of several folders start from."""

import pytest

from polystage.dialects import npu
from polystage.mlir import ir


@pytest.fixture
def npu_context():
    """Let a test build IR, our dialect included, without naming a context or a location."""
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        yield
