"""Every bench, one table: `benches/results.md`, the figures behind it and two plots.

Each bench runs as a program of its own and hands its figures over (`_common.keep`). Each figure
stands beside its peer's of the same run, since milliseconds of another machine say little. Where a
stored figure is there, the new ratio is compared with it: worse by more than the spread of both
runs is pointed out. With names of benches as arguments only those run, and the stored figures of
the others stay; so do those that a bench did not come to because it failed. They are marked with
the commit that they are of.

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

import peers
import plots
from _common import KEPT, MISSED

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

# What others are slower at than before is not ours to mend.
PEERS = ("PyPI SDK", "the PyPI SDK", "uvicorn", "fastapi dev", "BentoML", "LitServe", "haproxy", "Caddy")

Row = dict[str, Any]


def run(bench: str, commit: str) -> tuple[list[Row], float, int]:
    """The figures of a bench, how many seconds it ran, and how it ended."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
        started = time.perf_counter()
        words = [sys.executable, str(HERE / f"{bench}.py")]
        done = subprocess.run(words, env={**os.environ, KEPT: file.name})
        rows = [{**json.loads(line), "commit": commit} for line in file]
    return rows, time.perf_counter() - started, done.returncode


def joined(new: list[Row], before: list[Row], whole: set[str]) -> list[Row]:
    """New figures and, of stored ones, those that were not taken again.

    Figures of benches that ran to their end (`whole`) are all there is of them: what such a bench does
    not name any more is gone.
    """
    taken = {key(row) for row in new}
    stay = [row for row in before if key(row) not in taken and row["bench"] not in whole]
    rows = [row for row in new + stay if row["bench"] in BENCHES]
    # Each bench in its place, and in it what belongs under one heading.
    headings = list(dict.fromkeys((row["bench"], row["what"]) for row in rows))
    return sorted(
        rows,
        key=lambda row: (BENCHES.index(row["bench"]), headings.index((row["bench"], row["what"]))),
    )


def key(row: Row) -> tuple[str, str, str]:
    return row["bench"], row["what"], row["name"]


def spread(row: Row) -> float:
    """How far apart the rounds are, as a share of the median."""
    low, high = min(row["values"]), max(row["values"])
    return (high - low) / row["median"] if row["median"] else 0.0


def worsened(row: Row, old: Row | None) -> float | None:
    """By which share a figure is worse than the stored one, if that is more than both spreads.

    Figures without a peer that have a limit of their own are compared as they are.
    """
    if row["name"].startswith(PEERS):
        return None
    by = "ratio" if "ratio" in row else "median"
    if not old or not old.get(by) or (by == "median" and "limit" not in row):
        return None
    change = row[by] / old[by] - 1
    change = -change if row.get("higher") else change
    return change if change > max(spread(row), spread(old)) else None


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cells(row: Row, old: Row | None, commit: str) -> list[str]:
    low, high = number(min(row["values"])), number(max(row["values"]))
    worse = worsened(row, old)
    notes = [] if worse is None else [f"worse by {worse:.0%}"]
    if "met" in row and not row["met"]:
        notes.append("**missed**")
    if row.get("commit") != commit:
        notes.append(f"of {row.get('commit', 'an earlier run')}")
    return [
        row["name"],
        f"{number(row['median'])} ({low} to {high}) {row['unit']}",
        str(len(row["values"])),
        row.get("peer", ""),
        f"{row['ratio']:.3g}x" if "ratio" in row else "",
        row.get("limit", ""),
        ", ".join(notes),
    ]


def told_commit() -> str:
    """Which source this is, and whether it is as it was committed."""
    return peers.told(["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"])


def machine(commit: str) -> list[str]:
    """What it ran on, and with which peers."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        f"{model[1] if model else platform.processor()}, {os.cpu_count()} CPUs, {platform.platform()}",
        f"load of the machine at the end: {load}",
        f"Python {platform.python_version()}, flyte-rs at {commit}, {time.strftime('%Y-%m-%d')}",
    ]
    return lines + [f"{name}: {version}" for name, version in peers.versions().items()]


def table(rows: list[Row], stored: dict[tuple[str, str, str], Row], about: list[str], commit: str) -> str:
    head = ["", "median (min to max)", "n", "beside", "ratio", "asked for", ""]
    lines = ["# Figures", "", "Written by `make bench`. Ratios are to the peer in the same run.", ""]
    lines += [f"- {line}" for line in about]
    what = None
    for row in rows:
        if row["what"] != what:
            what = row["what"]
            lines += ["", f"## {what}", "", f"`benches/{row['bench']}.py`", ""]
            lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines.append("| " + " | ".join(cells(row, stored.get(key(row)), commit)) + " |")
    return "\n".join(lines) + "\n"


def write(rows: list[Row], stored: dict[tuple[str, str, str], Row], failed: list[str], commit: str) -> str:
    """Writes the figures, their table and the plots; the table."""
    about = machine(commit) + [
        f"**failed, its figures are not all new: `benches/{name}.py`**" for name in failed
    ]
    text = table(rows, stored, about, commit)
    TABLE.write_text(text)
    STORED.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    plots.write(rows, HERE)
    return text


def main() -> int:
    asked = sys.argv[1:] or BENCHES
    if unknown := set(asked) - set(BENCHES):
        sys.exit(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    before = json.loads(STORED.read_text()) if STORED.exists() else []
    stored = {key(row): row for row in before}
    commit = told_commit()
    new: list[Row] = []
    failed: list[str] = []
    whole: set[str] = set()
    text = ""
    for bench in asked:
        print(f"\n=== {bench}", flush=True)
        rows, seconds, code = run(bench, commit)
        print(f"--- {bench}: {seconds:.0f} s, exit code {code}", flush=True)
        new += rows
        if code in (0, MISSED):
            whole.add(bench)
        else:
            failed.append(bench)
        # After each of them, for whoever breaks off a run of an hour.
        text = write(joined(new, before, whole), stored, failed, commit)
    print("\n" + text)
    missed = [row for row in new if row.get("met") is False]
    for row in missed:
        print(f"missed: {row['what']}: {row['name']}: {reached(row)}, asked for {row['limit']}")
    for row in new:
        if (worse := worsened(row, stored.get(key(row)))) is not None:
            print(f"worse than stored by {worse:.0%}: {row['what']}: {row['name']}")
    for bench in failed:
        print(f"failed: benches/{bench}.py")
    return int(bool(failed or missed))


def reached(row: Row) -> str:
    value = f"{number(row['median'])} {row['unit']}"
    return f"{value}, {row['ratio']:.3g}x" if "ratio" in row else value


if __name__ == "__main__":
    sys.exit(main())
