"""The threat model's table, joined with what became of its tests: attacker, what is tried, test, result.

The table stands in ARCHITECTURE.md; each line names its tests as `file::name`. Those tests are run
here, Python's by pytest and Rust's by cargo, and their results set beside the lines. A skipped test
is shown with its reason and is no pass; a test that did not run at all counts as failed.

    python tests/threats.py                                   run them, print the table
    python tests/threats.py --junit FILE --cargo FILE         only join what runs have left

`--cargo` takes what `cargo test` prints without `--quiet`. Exit code 1 where a test failed or did
not run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PASSED, SKIPPED, FAILED, ABSENT = "passed", "skipped", "FAILED", "NOT RUN"
# The worst of several runs of one test (its parameters) is what the line says.
ORDER = [PASSED, SKIPPED, ABSENT, FAILED]


@dataclass
class Line:
    """One line of the table."""

    attacker: str
    tried: str
    held: str
    tests: list[str]


@dataclass
class Result:
    """What became of a test, and in how many runs."""

    outcome: str
    why: str = ""
    runs: int = 1

    def worse(self, other: Result) -> Result:
        """Both as one."""
        worst = max(self, other, key=lambda one: ORDER.index(one.outcome))
        return Result(worst.outcome, worst.why, self.runs + other.runs)

    def __str__(self) -> str:
        runs = f" ({self.runs} runs)" if self.runs > 1 else ""
        return f"{self.outcome}{runs}" + (f": {self.why}" if self.why else "")


def table(text: str) -> list[Line]:
    """The lines of the section `Threats`."""
    section = text.split("\n## Threats\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ") for line in section.splitlines() if line.startswith("| ")]
    lines = []
    for row in rows[1:]:
        attacker, tried, held, tests = (cell.strip() for cell in row.split(" | "))
        lines.append(Line(attacker, tried, held, [test.strip("`") for test in tests.split(", ")]))
    return lines


def of_python(junit: str) -> dict[str, Result]:
    """Results by `file::name`, of pytest's XML."""
    found: dict[str, Result] = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        name = f"{file}::{case.attrib['name'].partition('[')[0]}"
        result = Result(PASSED)
        for child in case:
            if child.tag in ("failure", "error"):
                result = Result(FAILED, child.attrib.get("message", "").splitlines()[0][:120])
            elif child.tag == "skipped":
                result = Result(SKIPPED, child.attrib.get("message", ""))
        found[name] = found[name].worse(result) if name in found else result
    return found


def of_rust(printed: str) -> dict[str, Result]:
    """Results by path within the crate (`a::b::tests::name`), of what cargo prints."""
    outcomes = {"ok": PASSED, "ignored": SKIPPED}
    lines = re.findall(r"^test (\S+) \.\.\. (\w+)", printed, re.MULTILINE)
    return {path: Result(outcomes.get(word, FAILED)) for path, word in lines}


def rust_paths(test: str) -> set[str]:
    """Where a test of `file::name` may lie in the crate: the file's own module, or its `tests`."""
    file, name = test.split("::")
    parts = file.removeprefix("src/").removesuffix(".rs").removesuffix("/mod").split("/")
    module = "::".join(parts)
    return {f"{module}::{name}", f"{module}::tests::{name}"}


def result_of(test: str, python: dict[str, Result], rust: dict[str, Result]) -> Result:
    """What became of a test of the table."""
    names = {test} if ".py::" in test else rust_paths(test)
    found = [result for name, result in (python | rust).items() if name in names]
    return found[0] if found else Result(ABSENT)


def run(lines: list[Line]) -> tuple[str, str]:
    """Runs the tests of the table; pytest's XML and what cargo printed."""
    tests = list(dict.fromkeys(test for line in lines for test in line.tests))
    python = [test for test in tests if ".py::" in test]
    rust = [test.partition("::")[2] for test in tests if ".rs::" in test]
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        words = [sys.executable, "-m", "pytest", "-q", f"--junitxml={junit}", *python]
        subprocess.run(words, cwd=ROOT, stdout=sys.stderr)
        done = subprocess.run(
            ["cargo", "test", "--lib", "--", *rust], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        xml = junit.read_text() if junit.exists() else "<testsuites/>"
    return xml, done.stdout


def shown(lines: list[Line], python: dict[str, Result], rust: dict[str, Result]) -> tuple[str, Counter[str]]:
    """The table, and how many tests had which outcome."""
    text = ["| Attacker | What is tried | Test | Result |", "|---|---|---|---|"]
    counts: Counter[str] = Counter()
    for line in lines:
        attacker, tried = line.attacker, line.tried
        for test in line.tests:
            result = result_of(test, python, rust)
            counts[result.outcome] += 1
            text.append(f"| {attacker} | {tried} | `{test}` | {result} |")
            attacker = tried = ""
    return "\n".join(text), counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--junit", type=Path, help="pytest's XML of a run")
    parser.add_argument("--cargo", type=Path, help="what `cargo test` printed")
    given = parser.parse_args()
    lines = table((ROOT / "ARCHITECTURE.md").read_text())
    if given.junit or given.cargo:
        junit = given.junit.read_text() if given.junit else "<testsuites/>"
        printed = given.cargo.read_text() if given.cargo else ""
    else:
        junit, printed = run(lines)
    text, counts = shown(lines, of_python(junit), of_rust(printed))
    print(text)
    told = ", ".join(f"{counts[outcome]} {outcome.lower()}" for outcome in ORDER)
    print(f"\n{len(lines)} lines, {counts.total()} tests: {told}")
    return int(bool(counts[FAILED] or counts[ABSENT]))


if __name__ == "__main__":
    sys.exit(main())
