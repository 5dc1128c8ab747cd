"""The simulated peaks are the documented ones: `benchmarks/machine_peaks.py` finds nothing off."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "machine_peaks.py"


def test_peaks() -> None:
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "OFF" not in run.stdout
