"""Every bench, one table: `benches/results.md`, the figures behind it and two plots.

Each bench runs as a program of its own and hands its figures over (`_common.keep`). Each figure
stands beside its peer's of the same run, since milliseconds of another machine say little. Where a
stored figure is there, the new ratio is compared with it: worse by more than the spread of both
runs is pointed out. With names of benches as arguments only those run, and the stored figures of
the others stay.

Exit code 1 where a bench fails or a limit is missed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import plots
from _common import KEPT

HERE = Path(__file__).parent
STORED = HERE / "results.json"
TABLE = HERE / "results.md"
# In the order in which they stand in the table.
BENCHES = [
    "first_answer",
    "serve_overhead",
    "reserve",
    "watch",
    "bundle",
    "environments",
    "image",
    "gateway",
    "cold_start",
    "rollouts",
    "streams",
    "many_apps",
    "parameters",
    "startup",
    "cli",
    "foreign",
]

Row = dict[str, Any]


def run(bench: str) -> tuple[list[Row], float, int]:
    """The figures of a bench, how many seconds it ran, and how it ended."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
        started = time.perf_counter()
        words = [sys.executable, str(HERE / f"{bench}.py")]
        done = subprocess.run(words, env={**os.environ, KEPT: file.name})
        rows = [json.loads(line) for line in file]
    return rows, time.perf_counter() - started, done.returncode


def key(row: Row) -> tuple[str, str, str]:
    return row["bench"], row["what"], row["name"]


def spread(row: Row) -> float:
    """How far apart the rounds are, as a share of the median."""
    low, high = min(row["values"]), max(row["values"])
    return (high - low) / row["median"] if row["median"] else 0.0


def worsened(row: Row, old: Row | None) -> float | None:
    """By which share a figure is worse than the stored one, if that is more than both spreads."""
    if not old or "ratio" not in row or "ratio" not in old:
        return None
    change = row["ratio"] / old["ratio"] - 1
    change = -change if row.get("higher") else change
    return change if change > max(spread(row), spread(old)) else None


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cells(row: Row, old: Row | None) -> list[str]:
    low, high = number(min(row["values"])), number(max(row["values"]))
    worse = worsened(row, old)
    notes = [] if worse is None else [f"worse by {worse:.0%}"]
    if "met" in row and not row["met"]:
        notes.append("**missed**")
    return [
        row["name"],
        f"{number(row['median'])} ({low} to {high}) {row['unit']}",
        str(len(row["values"])),
        row.get("peer", ""),
        f"{row['ratio']:.3g}x" if "ratio" in row else "",
        row.get("limit", ""),
        ", ".join(notes),
    ]


def told(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        return "absent"
    found = (done.stdout + done.stderr).strip().splitlines()
    return found[0] if found else "?"


def machine() -> list[str]:
    """What it ran on, and with which peers."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    commit = told(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"])
    programs = {
        "nginx": ["nginx", "-v"],
        "haproxy": ["haproxy", "-v"],
        "Caddy": ["caddy", "version"],
        "zstd": ["zstd", "--version"],
        "uv": ["uv", "--version"],
        "Docker Engine": ["docker", "version", "--format", "{{.Server.Version}}"],
    }
    lines = [
        f"{model[1] if model else platform.processor()}, {os.cpu_count()} CPUs, {platform.platform()}",
        f"Python {platform.python_version()}, flyte-rs at {commit}, {time.strftime('%Y-%m-%d')}",
    ]
    return lines + [f"{name}: {told(words)}" for name, words in programs.items()]


def table(rows: list[Row], stored: dict[tuple[str, str, str], Row], about: list[str]) -> str:
    head = ["", "median (min to max)", "n", "beside", "ratio", "asked for", ""]
    lines = ["# Figures", "", "Written by `make bench`. Ratios are to the peer in the same run.", ""]
    lines += [f"- {line}" for line in about]
    what = None
    for row in rows:
        if row["what"] != what:
            what = row["what"]
            lines += ["", f"## {what}", "", f"`benches/{row['bench']}.py`", ""]
            lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines.append("| " + " | ".join(cells(row, stored.get(key(row)))) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    asked = sys.argv[1:] or BENCHES
    before = json.loads(STORED.read_text()) if STORED.exists() else []
    stored = {key(row): row for row in before}
    new: list[Row] = []
    failed = []
    for bench in asked:
        print(f"\n=== {bench}", flush=True)
        rows, seconds, code = run(bench)
        print(f"--- {bench}: {seconds:.0f} s, exit code {code}", flush=True)
        new += rows
        if code:
            failed.append(bench)
    kept = [row for row in before if row["bench"] not in {row["bench"] for row in new}]
    rows = sorted(new + kept, key=lambda row: BENCHES.index(row["bench"]))
    text = table(rows, stored, machine())
    TABLE.write_text(text)
    STORED.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    plots.write(rows, HERE)
    print("\n" + text)
    missed = [row for row in new if row.get("met") is False]
    for row in missed:
        print(f"missed: {row['what']}: {row['name']}: {row['ratio']:.3g}x, asked for {row['limit']}")
    for row in new:
        if (worse := worsened(row, stored.get(key(row)))) is not None:
            print(f"worse than stored by {worse:.0%}: {row['what']}: {row['name']}")
    for bench in failed:
        print(f"failed: benches/{bench}.py")
    return int(bool(failed or missed))


if __name__ == "__main__":
    sys.exit(main())
