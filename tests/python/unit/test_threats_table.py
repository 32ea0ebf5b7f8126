"""The script that sets results beside the lines of the threat model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "threats.py"

ARCHITECTURE = """
## Before

| not | this | table | here |

## Threats

| Attacker | What is tried | What holds | Tests |
|---|---|---|---|
| a | b | c | `tests/python/e2e/test_x.py::test_one`, `src/files/mod.rs::two` |
| d | e | f | `src/local/gateway/tests/protocols.rs::three`, `src/tls.rs::four` |

## After
"""
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.python.e2e.test_x" name="test_one[a]"/>
<testcase classname="tests.python.e2e.test_x" name="test_one[b]"><skipped message="needs root"/></testcase>
<testcase classname="tests.python.e2e.test_x" name="test_two"><failure message="no&#10;more"/></testcase>
</testsuite></testsuites>"""
CARGO = """
running 3 tests
test files::tests::two ... ok
test local::gateway::tests::protocols::three ... FAILED
test other::tests::four ... ok
"""


@pytest.fixture(scope="module")
def threats() -> Any:
    spec = importlib.util.spec_from_file_location("threats", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["threats"] = module
    spec.loader.exec_module(module)
    return module


def test_results_stand_beside_their_lines(threats: Any) -> None:
    lines = threats.table(ARCHITECTURE)
    assert [line.attacker for line in lines] == ["a", "d"]
    text, counts = threats.shown(lines, threats.of_python(JUNIT), threats.of_rust(CARGO))
    assert text.splitlines()[2:] == [
        "| a | b | `tests/python/e2e/test_x.py::test_one` | skipped (2 runs): needs root |",
        "|  |  | `src/files/mod.rs::two` | passed |",
        "| d | e | `src/local/gateway/tests/protocols.rs::three` | FAILED |",
        "|  |  | `src/tls.rs::four` | NOT RUN |",
    ]
    assert counts == {"skipped": 1, "passed": 1, "FAILED": 1, "NOT RUN": 1}


def test_every_line_of_the_architecture_is_read(threats: Any) -> None:
    lines = threats.table((SCRIPT.parents[1] / "ARCHITECTURE.md").read_text())
    assert len(lines) >= 20
    assert all("::" in test for line in lines for test in line.tests)
