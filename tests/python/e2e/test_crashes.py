"""A few rounds of the crash harness, which runs by the hundred with `make crash`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "crash"
ROUNDS = 12
# The same in each run, so that one that fails can be repeated; `make crash` takes another each time.
SEED = 20261128


@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_rounds_of_kills_violate_nothing() -> None:
    words = [sys.executable, HARNESS, "--rounds", str(ROUNDS), "--seed", str(SEED)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ROUNDS} rounds" in done.stdout.splitlines()[-1]
