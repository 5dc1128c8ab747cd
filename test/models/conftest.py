"""The benchmarks hold the models; the tests run the quick ones."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
