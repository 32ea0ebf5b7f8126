"""Kills the platform, its clients, builds and replicas while they work, and looks at what is left.

    python tests/crash --rounds 500 --seed 7

Each round does one to three things at once (serving, activating, deleting, secrets, pruning), lets
one fault befall, brings the platform back, and checks: what was acknowledged is there, what was not
is there or is not, nothing in between; each active app answers at the endpoint it always had; no
process, lock or temporary file is left; the database is sound. A seed repeats a run as far as the
kernel lets it. Exit code 1 where anything was violated.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

from rounds import World  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", action="store_true", help="leave the home where it is")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    print(f"seed {options.seed}, {options.rounds} rounds in {scratch}", flush=True)
    world = World(scratch, random.Random(options.seed))
    started = time.monotonic()
    faults: collections.Counter[str] = collections.Counter()
    try:
        for number in range(1, options.rounds + 1):
            report = world.round(number)
            faults[report.fault] += 1
            print(report.line(), flush=True)
        world.end()
    finally:
        world.close()
    seconds = time.monotonic() - started
    print(f"\n{'fault':<44}{'rounds':>8}")
    for name, count in sorted(faults.items()):
        print(f"{name:<44}{count:>8}")
    print(
        f"\noperations: {world.asked}, of them acknowledged: {world.acknowledged}, broken off: {world.broken}"
    )
    for violation in world.violations:
        print(f"VIOLATION {violation}")
    told = (
        f"seed {options.seed}: {options.rounds} rounds in {seconds:.0f} s, {len(world.violations)} violations"
    )
    print(told)
    if not options.keep and not world.violations:
        shutil.rmtree(scratch, ignore_errors=True)
    return int(bool(world.violations))


if __name__ == "__main__":
    sys.exit(main())
