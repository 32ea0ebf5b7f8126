"""The script that notes what fuzzing came to, on what libFuzzer prints."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"

WENT_THROUGH = """
INFO: Seed: 1
#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 30Mb
#1048576\tpulse  cov: 2345 ft: 4567 corp: 312/9kb lim: 4096 exec/s: 52428 rss: 401Mb
Done 1200345 runs in 21 second(s)
stat::number_of_executed_units: 1200345
"""
FOUND = """
#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 30Mb
#4096\tNEW    cov: 180 ft: 301 corp: 2/9b lim: 4 exec/s: 0 rss: 30Mb L: 3/4 MS: 1 ChangeBit-

thread '<unnamed>' panicked at tests/fuzz/readers/connect.rs:12:5:
assertion failed: a | b
==77== ERROR: libFuzzer: deadly signal
SUMMARY: libFuzzer: deadly signal
artifact_prefix='/x/artifacts/connect/'; Test unit written to /x/artifacts/connect/crash-00ff
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_run", FUZZ / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_run"] = module
    spec.loader.exec_module(module)
    return module


def test_a_run_without_a_finding_is_counted(script: Any) -> None:
    outcome = script.read(WENT_THROUGH, 0, 21.2)
    assert (outcome.executions, outcome.edges, outcome.found) == (1_200_345, 2345, "nothing")


def test_a_finding_says_what_and_where(script: Any) -> None:
    outcome = script.read(FOUND, 77, 3)
    assert (outcome.executions, outcome.edges) == (4096, 180)
    assert "assertion failed: a / b (tests/fuzz/readers/connect.rs:12:5)" in outcome.found
    assert outcome.found.endswith("`artifacts/connect/crash-00ff`")


def test_a_row_is_replaced_and_all_else_stays(script: Any) -> None:
    text = (
        "# Title\n\n| Target | Date | Commit | Seconds | Executions | Edges | Found |\n|---|---|---|---|---|---|---|\n"
        "| wire | d | c | 1 | 2 | 3 | nothing |\n| config | d | c | 1 | 2 | 3 | old |\n\n## Found and mended\n\n- this\n"
    )
    outcome = script.read(WENT_THROUGH, 0, 21.2)
    again = script.noted(text, "config", outcome, "abc")
    lines = again.split("\n")
    assert "| abc | 21 | 1,200,345 | 2345 | nothing |" in lines[4] and lines[4].startswith("| config |")
    assert lines[5] == "| wire | d | c | 1 | 2 | 3 | nothing |"
    assert again.endswith("\n\n## Found and mended\n\n- this\n")
    first = script.noted(text.replace("| config | d | c | 1 | 2 | 3 | old |\n", ""), "config", outcome, "abc")
    assert first == again


def test_the_file_of_the_repository_can_be_written_to(script: Any) -> None:
    text = (FUZZ / "RESULTS.md").read_text()
    outcome = script.read(WENT_THROUGH, 0, 21.2)
    assert "| abc |" in script.noted(text, script.targets()[0], outcome, "abc")
