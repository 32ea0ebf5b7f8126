"""The wheel that `make install` built serves an app on the oldest and the newest Python that it is for.

`make test-wheels` takes all of 3.10 to 3.13, does the same with what is published, and builds the
sources as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_the_wheel_serves_on_the_ends_of_what_it_is_for():
    wheels = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "wheels"
    if not list(wheels.glob("*.whl")):
        pytest.skip("the package was installed in another way")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "wheels.py", wheels, "--no-sdist", "--any-size", "--ends"],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    served = [line for line in done.stdout.splitlines() if line.endswith("; serves")]
    assert len(served) == 2, done.stdout
