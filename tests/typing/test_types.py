"""`good.py` passes mypy in strict mode, and `bad.py` fails on exactly the lines that say so."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
REPORTED = re.compile(r"^[^:]+:(\d+): error: .*\[([\w-]+)\]$", re.MULTILINE)
EXPECTED = re.compile(r"# error: ([\w-]+)$")


def mypy(file: str, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(cache), file]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True)


def test_what_users_may_write_is_accepted(tmp_path: Path) -> None:
    checked = mypy("good.py", tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_slips_are_found_where_they_are(tmp_path: Path) -> None:
    lines = (HERE / "bad.py").read_text().splitlines()
    wanted = Counter(
        (number, found[1]) for number, line in enumerate(lines, 1) if (found := EXPECTED.search(line))
    )
    checked = mypy("bad.py", tmp_path)
    reported = Counter((int(line), code) for line, code in REPORTED.findall(checked.stdout))
    assert wanted, "no line of bad.py expects an error"
    assert reported == wanted, checked.stdout + checked.stderr
