"""`.ci/audit` with programs that only say what they were told to: what counts as looked up, and what does not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[3] / ".ci"

CARGO = """#!/bin/sh
case "$*" in
  *advisories*) echo "failed to fetch advisory database"; exit 1;;
  *licenses*) exit ${LICENCES:-0};;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the script and stand-ins for the programs that it calls."""
    shutil.copytree(CI, tmp_path / ".ci")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"cargo": CARGO, "cargo-deny": "#!/bin/sh\n", "uv": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return tmp_path


def audit(project: Path, **variables: str) -> tuple[int, str]:
    environment = {"PATH": f"{project / 'bin'}:/usr/bin:/bin", **variables}
    done = subprocess.run(
        [project / ".ci/audit"], env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_what_was_not_looked_up_is_no_pass_unless_it_is_known(project: Path) -> None:
    code, told = audit(project)
    assert code == 3 and "`cargo-audit` is missing" in told
    code, told = audit(project, AUDIT_OFFLINE="1")
    assert code == 0, told
    assert told.count("NOT LOOKED UP") == 2, told


def test_cargo_audit_is_asked_where_it_is_there(project: Path) -> None:
    (project / "bin/cargo-audit").symlink_to(project / "bin/cargo-deny")
    code, told = audit(project)
    assert code == 3 and "advisories on crates (cargo audit): nothing found" in told


@pytest.mark.parametrize("offline", ["", "1"])
def test_licences_are_looked_at_in_any_case(project: Path, offline: str) -> None:
    assert audit(project, AUDIT_OFFLINE=offline, LICENCES="1")[0] in ({1} if offline else {3})
    os.remove(project / "bin/cargo-deny")
    code, told = audit(project, AUDIT_OFFLINE=offline)
    assert code == 3 and "`cargo-deny` is missing" in told
