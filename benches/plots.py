"""Two plots of the figures as SVG: what a first answer takes, and what bundling takes as a tree grows.

Drawn by hand, for a chart of ten bars is not worth a plotting library. Colours are chosen for both
a light and a dark page.
"""

from __future__ import annotations

import math
import re
from html import escape
from pathlib import Path
from typing import Any

OURS, THEIRS, TEXT, LINE = "#7652e0", "#8a94a6", "#6e7781", "#8a94a655"
FONT = "font-family='system-ui, sans-serif' font-size='13'"

Row = dict[str, Any]


def write(rows: list[Row], folder: Path) -> None:
    """Write the plots for which there are figures."""
    first = [row for row in rows if row["bench"] == "first_answer"]
    if first:
        (folder / "first_answer.svg").write_text(bars(first))
    trees = [row for row in rows if row["bench"] == "bundle" and row["what"].endswith("no blob")]
    if trees:
        (folder / "bundle.svg").write_text(lines(trees))


def page(width: int, height: int, title: str, body: list[str]) -> str:
    inner = "\n".join(body)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"width='{width}' height='{height}' {FONT} fill='{TEXT}' role='img'>\n"
        f"<title>{escape(title)}</title>\n{inner}\n</svg>\n"
    )


def bars(rows: list[Row]) -> str:
    """One bar for each tool, shortest first; a thin line spans its rounds."""
    rows = sorted(rows, key=lambda row: row["median"])
    left, wide, step, top = 210, 420, 28, 34
    scale = wide / max(max(row["values"]) for row in rows)
    title = "From the command to the first answer, milliseconds"
    body = [f"<text x='0' y='16' font-weight='600'>{title}</text>"]
    for place, row in enumerate(rows):
        y = top + place * step
        colour = OURS if row["name"].startswith("flyte serve") else THEIRS
        low, high = min(row["values"]) * scale, max(row["values"]) * scale
        body += [
            f"<text x='{left - 8}' y='{y + 13}' text-anchor='end'>{escape(row['name'])}</text>",
            f"<path d='M{left} {y + 9}h{row['median'] * scale:.1f}' stroke='{colour}' stroke-width='18'/>",
            f"<path d='M{left + low:.1f} {y + 9}H{left + high:.1f}' stroke='{TEXT}'/>",
            f"<text x='{left + high + 8:.1f}' y='{y + 13}'>{row['median']:,.0f}</text>",
        ]
    return page(left + wide + 60, top + step * len(rows) + 6, title, body)


def lines(rows: list[Row]) -> str:
    """A line for each way of bundling over the number of files; both axes logarithmic."""
    left, wide, top, high = 60, 430, 34, 280
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        files = int(re.sub(r"\D", "", row["what"]))
        points.setdefault(row["name"], []).append((files, row["median"]))
    values = [taken for series in points.values() for _, taken in series]
    sizes = sorted({files for series in points.values() for files, _ in series})
    low, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def x(files: float) -> float:
        span = math.log10(sizes[-1] / sizes[0]) or 1.0
        return left + wide * math.log10(files / sizes[0]) / span

    def y(taken: float) -> float:
        return top + high * (most - math.log10(taken)) / (most - low)

    title = "Bundling a tree, milliseconds by number of files"
    body = [f"<text x='0' y='16' font-weight='600'>{title}</text>"]
    for power in range(low, most + 1):
        at = y(10**power)
        body.append(f"<path d='M{left} {at:.1f}H{left + wide}' stroke='{LINE}'/>")
        body.append(f"<text x='{left - 8}' y='{at + 4:.1f}' text-anchor='end'>{10**power:,g}</text>")
    for files in sizes:
        body.append(f"<text x='{x(files):.1f}' y='{top + high + 20}' text-anchor='middle'>{files:,}</text>")
    ends: list[float] = []
    ordered = sorted(points.items(), key=lambda item: y(item[1][-1][1]))
    for name, series in ordered:
        own = name.startswith("flyte-rs")
        colour = OURS if own else THEIRS
        dash = " stroke-dasharray='5 3'" if "changed" in name else ""
        path = "L".join(f"{x(files):.1f} {y(taken):.1f}" for files, taken in sorted(series))
        body.append(f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2'{dash}/>")
        at = max(y(series[-1][1]) + 4, *(end + 16 for end in ends[-1:]), top)
        ends.append(at)
        body.append(f"<text x='{left + wide + 8}' y='{at:.1f}' fill='{colour}'>{escape(name)}</text>")
    return page(left + wide + 210, top + high + 30, title, body)
