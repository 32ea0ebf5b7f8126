"""Runs fuzz targets one after the other and notes in RESULTS.md what came of each.

    python tests/fuzz/run.py --seconds 600            every target
    python tests/fuzz/run.py --seconds 20 connect     one of them
    python tests/fuzz/run.py --built 7dac8b0          as they were built from that commit

Building takes a quarter of an hour, which `--built` saves.

New inputs are collected below `target/fuzz-corpus`, so that a later run goes on where this one ended;
`--keep` adds those that reach something new to the corpus of the repository, which every test run
reads again (`replay.rs`). Exit code 1 where a target found something; its input lies below
`tests/fuzz/artifacts`. Once that is mended, it belongs into the corpus and a word about it into
RESULTS.md, whose text below the table stays.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
SCRATCH = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target")) / "fuzz-corpus"
HEAD = ["Target", "Date", "Commit", "Seconds", "Executions", "Edges", "Found"]
BUILT = HERE / "target" / "x86_64-unknown-linux-gnu" / "release"
# The longest that one input may take, in seconds.
TIMEOUT = 10


@dataclass
class Outcome:
    """What a run of one target came to."""

    seconds: float
    executions: int
    edges: int
    found: str


def read(printed: str, code: int, seconds: float) -> Outcome:
    """What libFuzzer printed."""
    progress = re.findall(r"^#(\d+)\s+\w+\s.*?cov: (\d+)", printed, re.MULTILINE)
    counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", printed)
    executions = int(counted[1]) if counted else max((int(count) for count, _ in progress), default=0)
    edges = max((int(cov) for _, cov in progress), default=0)
    return Outcome(seconds, executions, edges, finding(printed, code))


def finding(printed: str, code: int) -> str:
    """The finding in a line; `nothing` where the run went through."""
    if code == 0:
        return "nothing"
    panic = re.search(r"panicked at ([^\n]*):\n?\s*([^\n]*)", printed)
    summary = re.search(r"^SUMMARY: libFuzzer: (.*)$", printed, re.MULTILINE)
    artifact = re.search(r"Test unit written to \S*?([\w-]+/[\w-]+)$", printed, re.MULTILINE)
    told = f"{panic[2]} ({panic[1]})" if panic else summary[1] if summary else f"it ended with {code}"
    where = f", `artifacts/{artifact[1]}`" if artifact else ""
    return told[:160].replace("|", "/") + where


def targets() -> list[str]:
    return sorted(path.stem for path in (HERE / "targets").glob("*.rs"))


def fuzz(target: str, *words: str, built: bool = False) -> tuple[str, int]:
    """Runs a target with these folders and options of libFuzzer; what it printed, and how it ended."""
    command = ["cargo", "+nightly", "fuzz", "run", "--fuzz-dir", str(HERE), "--sanitizer", "none", target]
    if built:
        artifacts = HERE / "artifacts" / target
        artifacts.mkdir(parents=True, exist_ok=True)
        command = [str(BUILT / target), f"-artifact_prefix={artifacts}/"]
        words = tuple(word for word in words if word != "--")
    process = subprocess.Popen(
        [*command, *words],
        cwd=HERE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    assert process.stdout
    for line in process.stdout:
        sys.stderr.write(line)
        lines.append(line)
    return "".join(lines), process.wait()


def run(target: str, seconds: int, built: bool = False) -> Outcome:
    own, corpus = SCRATCH / target, HERE / "corpus" / target
    own.mkdir(parents=True, exist_ok=True)
    # Built apart from the clock.
    printed, code = fuzz(target, str(own), "--", "-runs=0", built=built)
    if code:
        return read(printed, code, 0)
    limits = [f"-max_total_time={seconds}", f"-timeout={TIMEOUT}", "-print_final_stats=1"]
    started = time.monotonic()
    printed, code = fuzz(target, str(own), str(corpus), "--", *limits, built=built)
    return read(printed, code, time.monotonic() - started)


def keep(target: str, built: bool) -> None:
    """Takes what reaches something new into the repository's corpus."""
    corpus = HERE / "corpus" / target
    fuzz(target, str(corpus), str(SCRATCH / target), "--", "-merge=1", built=built)


def noted(text: str, target: str, outcome: Outcome, commit: str) -> str:
    """The file with the target's row replaced; rows of other targets and other text stay."""
    number = f"{outcome.executions:,}"
    day = time.strftime("%Y-%m-%d")
    cells = [target, day, commit, f"{outcome.seconds:.0f}", number, str(outcome.edges), outcome.found]
    row = f"| {' | '.join(cells)} |"
    mark = f"| {HEAD[0]} | "
    before, rest = text.split(mark, 1)
    lines = rest.split("\n")
    length = next((at for at, line in enumerate(lines[2:], 2) if not line.startswith("|")), len(lines))
    rows = [line for line in lines[2:length] if not line.startswith(f"| {target} |")]
    table = [*lines[:2], *sorted([*rows, row])]
    return before + mark + "\n".join(table + lines[length:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="all, when none is named")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--built", metavar="COMMIT", help="run what was built from it, and build nothing")
    parser.add_argument("--keep", action="store_true", help="add new inputs to the corpus of the repository")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(targets()):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(targets())}")
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"]
    told = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    commit = given.built or told or "?"
    if not given.built:
        # The crates that are fuzzed are those that are shipped; what only the targets need is added.
        shutil.copy(HERE.parents[1] / "Cargo.lock", HERE / "Cargo.lock")
    built = given.built is not None
    failed = []
    for target in given.targets or targets():
        print(f"=== {target}", flush=True)
        outcome = run(target, given.seconds, built)
        RESULTS.write_text(noted(RESULTS.read_text(), target, outcome, commit))
        print(
            f"{target}: {outcome.executions:,} executions in {outcome.seconds:.0f} s: {outcome.found}",
            flush=True,
        )
        if outcome.found != "nothing":
            failed.append(target)
        elif given.keep:
            keep(target, built)
    print("\n" + RESULTS.read_text())
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
