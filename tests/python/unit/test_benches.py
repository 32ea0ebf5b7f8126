"""What judges the figures of `make bench`: limits, stored figures, plots. No bench is run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHES = Path(__file__).parents[3] / "benches"


@pytest.fixture(scope="module")
def bench() -> Any:
    """Imports a module of `benches`, which is a folder of programs and no package."""
    sys.path.insert(0, str(BENCHES))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    sys.path.remove(str(BENCHES))


def row(bench: str = "cli", what: str = "W", name: str = "a", **more: Any) -> dict[str, Any]:
    values = more.pop("values", [1.0, 2.0, 3.0])
    return {
        "bench": bench,
        "what": what,
        "name": name,
        "unit": "ms",
        "values": values,
        "median": values[len(values) // 2],
        "commit": "new",
        **more,
    }


def test_every_part_of_a_limit_counts(bench: Any) -> None:
    limit = bench("_common").Limit
    for given, own, peer, expected in [
        ({"most": 50}, 50, None, True),
        ({"most": 50}, 50.1, None, False),
        ({"times": 1 / 8, "most": 50}, 49, 400, True),
        ({"times": 1 / 8, "most": 50}, 51, 800, False),
        ({"times": 1 / 8, "most": 50}, 49, 300, False),
        ({"more": 40}, 140, 100, True),
        ({"more": 40}, 141, 100, False),
        ({"least": 1.0}, 99, 100, False),
    ]:
        assert limit(**given).met(own, peer) is expected, (given, own, peer)
    assert str(limit(times=1 / 8, most=50)) == "<= 0.125x, <= 50"
    with pytest.raises(ValueError, match="about a peer"):
        limit(times=2).met(1)


def test_a_missed_limit_ends_a_bench_with_a_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from _common import Figure, Limit, finish, show\n"
        "figure = Figure('decided', [0.002])\n"
        "finish(show('In a process', figure, [], {'decided': Limit(most=float(sys.argv[2]))}))\n"
    )

    def run(most: str) -> int:
        words = [sys.executable, "one.py", str(BENCHES), most]
        return subprocess.run(words, cwd=tmp_path, capture_output=True).returncode

    assert run("3") == 0
    assert run("1") == 4


def test_a_figure_without_a_peer_is_handed_over_with_its_limit(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common, kept = bench("_common"), tmp_path / "kept"
    monkeypatch.setenv(common.KEPT, str(kept))
    assert not common.show("T", common.Figure("own", [0.1]), [], {"own": common.Limit(most=80)})
    (line,) = map(json.loads, kept.read_text().splitlines())
    assert line["met"] is False and line["limit"] == "<= 80" and "peer" not in line


def test_figures_that_a_failed_bench_did_not_come_to_stay(bench: Any) -> None:
    suite = bench("suite")
    before = [
        row(what="A", commit="old"),
        row(what="B", name="b", commit="old"),
        row("bundle", "C", commit="old"),
        row("a_bench_of_yesterday", commit="old"),
    ]
    new = [row(what="A")]
    failed = suite.joined(new, before, whole=set())
    assert [(one["what"], one["commit"]) for one in failed] == [("C", "old"), ("A", "new"), ("B", "old")]
    ran_through = suite.joined(new, before, whole={"cli"})
    assert [(one["what"], one["commit"]) for one in ran_through] == [("C", "old"), ("A", "new")]
    text = suite.table(failed, {}, ["machine"], "new")
    assert text.count("## A") == 1 and text.count("of old") == 2


def test_what_is_worse_by_more_than_its_spread_is_pointed_out(bench: Any) -> None:
    worsened = bench("suite").worsened
    still = {"values": [1.0, 1.0, 1.0]}
    assert worsened(row(ratio=1.5, **still), row(ratio=1.0, **still)) == pytest.approx(0.5)
    assert worsened(row(ratio=0.9, **still), row(ratio=1.0, **still)) is None
    assert worsened(row(ratio=1.5), row(ratio=1.0, **still)) is None, "within the spread"
    assert worsened(row(ratio=0.5, higher=True, **still), row(ratio=1.0, **still)) == pytest.approx(0.5)
    heavier = row(values=[9.0, 9.0, 9.0], limit="<= 80")
    assert worsened(heavier, row(values=[6.0, 6.0, 6.0], limit="<= 80")) == pytest.approx(0.5)
    of_others = row(name="PyPI SDK: serve", ratio=1.5, **still)
    assert worsened(of_others, row(name="PyPI SDK: serve", ratio=1.0, **still)) is None


def test_plots_can_be_drawn_and_read(bench: Any, tmp_path: Path) -> None:
    first = [row("first_answer", name=name) for name in ("uvicorn", "flyte serve, the app is new")]
    trees = [
        row("bundle", f"{files:,} files, no blob", name, values=[files / 10, files / 9, files / 8])
        for files in (100, 1000)
        for name in ("tar | zstd", "flyte-rs, nothing known", "PyPI SDK <x>")
    ]
    bench("plots").write(first + trees, tmp_path)
    for name in ("first_answer.svg", "bundle.svg"):
        assert ElementTree.fromstring((tmp_path / name).read_text()).tag.endswith("svg")


def test_readme_shows_the_plots_that_are_written() -> None:
    readme = (BENCHES.parent / "README.md").read_text()
    source = (BENCHES / "plots.py").read_text()
    for name in ("first_answer.svg", "bundle.svg"):
        assert f"(benches/{name})" in readme and f'"{name}"' in source


def test_every_bench_is_in_the_suite(bench: Any) -> None:
    apart = {"_common", "peers", "plots", "soak", "suite"}
    programs = {path.stem for path in BENCHES.glob("*.py")} - apart
    assert programs == set(bench("suite").BENCHES)
