"""Bundling 10,000 source files and a blob of 100 MB, beside `tar | zstd -T0 -3`; then 100 to 100,000 files.

Whole processes are timed. Ours is `benches/bundle.rs`: it chooses the files, hashes and packs them
as `flyte serve` does, and ends with every byte of the archive stored, its digest and its MD5 known.
In each round come one after the other: the pipe; ours with an empty cache; ours with nothing
changed; ours with a line added to one file. Afterwards, outside of the timing, the last archive is
unpacked with `tar --zstd` and compared with the tree, file by file. The PyPI SDK bundles the same
trees.
"""

from __future__ import annotations

import filecmp
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROUNDS, Figure, Limit, finish, keep, peer_python, quiet

REPOSITORY = Path(__file__).parent.parent
BLOB_BYTES = 100_000_000

PEER = """
import asyncio, pathlib, resource, sys, time
from flyte._code_bundle.bundle import build_code_bundle
tree, out = map(pathlib.Path, sys.argv[1:])
started = time.perf_counter()
asyncio.run(build_code_bundle(from_dir=tree, dryrun=True, copy_style="all", copy_bundle_to=out))
took = time.perf_counter() - started
print("took", took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def make_tree(root: Path, files: int, blob_bytes: int) -> None:
    """Source-like text files in folders of 40, about 2.5 kB each, and one file without any order."""
    dice = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz_"
    words = ["".join(dice.choices(letters, k=dice.randint(3, 10))) for _ in range(3000)]
    lines = [
        "    " * dice.randint(0, 3) + " ".join(dice.choices(words, k=dice.randint(2, 9)))
        for _ in range(200_000)
    ]
    for number in range(files):
        folder = root / f"pkg{number // 1000:03}" / f"mod{number // 40:04}"
        if number % 40 == 0:
            folder.mkdir(parents=True)
        text, size = [f"# file {number}"], int(dice.lognormvariate(7.6, 0.8))
        while size > 0:
            line = lines[dice.randrange(len(lines))]
            text.append(line)
            size -= len(line) + 1
        (folder / f"f{number:06}.py").write_text("\n".join(text) + "\n")
    if blob_bytes:
        (root / "blob.bin").write_bytes(dice.randbytes(blob_bytes))


def make_tree_apart(root: Path, files: int, blob_bytes: int) -> None:
    """The same in a process of its own: what a program is started from counts as its memory, too."""
    code = "import sys, pathlib, bundle; bundle.make_tree(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    arguments = [sys.executable, "-c", code, str(root), str(files), str(blob_bytes)]
    subprocess.run(arguments, cwd=Path(__file__).parent, check=True)


def timed(command: list[str], **more: object) -> tuple[float, int, str]:
    """Seconds, peak memory in kB of it or its largest child, and what it wrote."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{command} failed with {process.returncode}: {output}")
    return took, usage.ru_maxrss, output


def driver() -> Path:
    """Builds `benches/bundle.rs` and tells where it is."""
    build = ["cargo", "build", "--quiet", "--release", "--bench", "bundle", "--message-format", "json"]
    done = subprocess.run(build, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "bundle":
            return Path(message["executable"])
    raise RuntimeError("cargo did not say where it put the driver")


class Row:
    """One way of bundling: what it took in each round, and the most memory it held."""

    def __init__(self, name: str, limit: float | None = None) -> None:
        self.name = name
        self.limit = limit
        self.seconds: list[float] = []
        self.peak_kb = 0
        self.bytes = 0

    def add(self, seconds: float, peak_kb: int) -> None:
        self.seconds.append(seconds)
        self.peak_kb = max(self.peak_kb, peak_kb)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def keep(self, title: str, base: Row) -> bool:
        """Hands the times to the suite; tells whether the limit is kept."""
        limit = None if self.limit is None else Limit(times=self.limit)
        peer = None if base is self else Figure(base.name, base.seconds)
        return keep(title, Figure(self.name, self.seconds), peer, limit)

    def text(self, base: Row) -> str:
        ratio = self.median / base.median
        limit = "" if self.limit is None else f"  (limit {self.limit}x)"
        spread = f"{1000 * min(self.seconds):.0f}-{1000 * max(self.seconds):.0f}"
        size = f"{self.bytes / 1e6:.1f}" if self.bytes else ""
        memory = f"{self.peak_kb / 1024:.0f}"
        return (
            f"{self.name:<34}{1000 * self.median:>9.0f}{spread:>14}{memory:>8}{size:>9}{ratio:>8.3f}x{limit}"
        )


def compare(tree: Path, scratch: Path, program: Path, limited: bool = True) -> tuple[Row, list[Row]]:
    """Runs all rounds on a tree; the limits are about the one with the blob."""
    cold_limit, same_limit, line_limit = (1.0, 0.1, 0.3) if limited else (None, None, None)
    pipe = Row("tar | zstd -T0 -3")
    cold = Row("flyte-rs, nothing known", cold_limit)
    same = Row("flyte-rs, nothing changed", same_limit)
    line = Row("flyte-rs, one line changed", line_limit)
    cache, archive = scratch / "cache", scratch / "pipe.tar.zst"
    victim = next(iter(sorted(tree.rglob("f000[0-9]*.py"))))
    ours = [str(program), str(tree), str(cache), "zst"]

    def pack(row: Row, *more: str) -> dict[str, object]:
        seconds, peak, output = timed([*ours, *more])
        row.add(seconds, peak)
        found: dict[str, object] = json.loads(output)
        row.bytes = int(str(found["bytes"]))
        return found

    for number in range(ROUNDS + 1):
        if number == 1:  # the first round fills the caches of the system
            for row in (pipe, cold, same, line):
                row.seconds.clear()
        shell = f"tar -C '{tree}' -cf - . | zstd -q -f -T0 -3 -o '{archive}'"
        seconds, peak, _ = timed(["sh", "-c", shell])
        pipe.add(seconds, peak)
        pipe.bytes = archive.stat().st_size
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        first = pack(cold)
        again = pack(same)
        if again["digest"] != first["digest"] or again["made_bytes"]:
            raise RuntimeError(f"an unchanged tree was packed again: {again}")
        with victim.open("a") as file:
            file.write(f"changed = {number}\n")
        changed = pack(line)
        if changed["digest"] == first["digest"]:
            raise RuntimeError("a change was not seen")
    pack(Row("unchanged"), str(scratch / "ours.tar.zst"))
    check(tree, scratch / "ours.tar.zst", scratch / "unpacked")
    return pipe, [cold, same, line]


def check(tree: Path, archive: Path, target: Path) -> None:
    """Unpacks with GNU tar and compares every file."""
    target.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", str(archive), "-C", str(target)], check=True)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    unpacked = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    same, different, failed = filecmp.cmpfiles(tree, target, names, shallow=False)
    if names != unpacked or different or failed or len(same) != len(names):
        raise RuntimeError(f"the archive differs from the tree: {different[:5]} {failed[:5]}")
    shutil.rmtree(target)


def pypi_sdk(tree: Path, scratch: Path) -> Row:
    """The same tree with the PyPI SDK, without its start and imports."""
    row = Row("PyPI SDK, build_code_bundle")
    out = scratch / "pypi"
    for _ in range(ROUNDS):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        command = [str(peer_python()), "-c", PEER, str(tree), str(out)]
        _, _, output = timed(command, env=quiet(HOME=str(scratch)), stderr=subprocess.DEVNULL)
        found = [line.split() for line in output.splitlines() if line.startswith("took ")]
        row.add(float(found[0][1]), int(found[0][2]))
        row.bytes = sum(path.stat().st_size for path in out.rglob("*.tar.gz"))
    shutil.rmtree(out)
    return row


def show(title: str, pipe: Row, rows: list[Row]) -> bool:
    print(f"\n{title}\n{'':<34}{'median ms':>9}{'min-max':>14}{'MiB':>8}{'MB out':>9}{'ratio':>10}")
    met = True
    for row in (pipe, *rows):
        kept = row.keep(title, pipe)
        met &= kept
        print(row.text(pipe) + ("" if kept else "  MISSED"))
    sys.stdout.flush()
    return met


def main() -> None:
    program = driver()
    with tempfile.TemporaryDirectory(prefix="flyte-bench-") as folder:
        tree, scratch = Path(folder, "tree"), Path(folder, "scratch")
        scratch.mkdir()
        make_tree_apart(tree, 10_000, BLOB_BYTES)
        pipe, ours = compare(tree, scratch, program)
        met = show("10,000 files and a blob of 100 MB", pipe, [*ours, pypi_sdk(tree, scratch)])
        shutil.rmtree(tree)
        for name in os.listdir(scratch):
            path = scratch / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for files in (100, 1_000, 10_000, 100_000):
            make_tree_apart(tree, files, 0)
            pipe, ours = compare(tree, scratch, program, limited=False)
            met &= show(f"{files:,} files, no blob", pipe, [*ours, pypi_sdk(tree, scratch)])
            shutil.rmtree(tree)
    finish(met)


if __name__ == "__main__":
    main()
