"""Installs what `make wheels` made into clean environments without an index, and uses it.

    python tests/wheels.py DIST [PYTHON...] [--no-sdist] [--any-size] [--ends] [--checkout | --only-checkout]

Without PYTHON, all of 3.10 to 3.13 that are found on `PATH` and with pyenv. What the package depends
on is downloaded once into a folder; from then on `pip` gets nothing but `--no-index --find-links`.
The sources are built once, with the first interpreter: that takes as long as a release build, unless
`--no-sdist` is given. `--checkout` installs this checkout with each interpreter (`pip install .`),
with `MATURIN_PEP517_ARGS` and `CARGO_TARGET_DIR` as they are, so that a quick profile can be chosen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_BYTES = 20_000_000
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
TRY = "import flyte, flyte.app; print(flyte.__version__, flyte.app.AppEnvironment(name='a', args='b').name)"


def run(*words: str | Path, **more: str) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env={**os.environ, **more})
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def interpreters() -> list[str]:
    """The Pythons of this machine that the package is for."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for version in VERSIONS:
        built = [str(one) for one in sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
        named = shutil.which(f"python{version}")
        # A shim of pyenv is there for versions that are not active, and fails.
        for python in [*built, *([named] if named else [])]:
            if subprocess.run([python, "-c", "import ensurepip"], capture_output=True).returncode == 0:
                found.append(python)
                break
        else:
            print(f"no Python {version} here")
    return found


def install(python: str, what: Path, links: Path | None, scratch: Path) -> None:
    """Install one file or the checkout into a new environment, and serve an app with it."""
    venv = scratch / f"venv-{abs(hash((python, what.name)))}"
    run(python, "-m", "venv", venv)
    pip = [venv / "bin" / "python", "-m", "pip", "--isolated", "--disable-pip-version-check"]
    offline = ["--no-index", "--find-links", links] if links else []
    run(*pip, "install", "--quiet", *offline, what)
    told = run(venv / "bin" / "python", "-c", TRY).strip()
    home = {
        "FLYTE_HOME": str(scratch / f"h-{venv.name[-6:]}"),
        "FLYTE_DISABLE_KEYRING": "1",
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
    }
    project = scratch / f"app-{venv.name}"
    flyte = venv / "bin" / "flyte"
    run(flyte, "init", "plain", project, **home)
    try:
        endpoint = run(flyte, "serve", project / "app.py", **home).strip()
        answer = run("curl", "-s", f"{endpoint}/offline").strip()
    finally:
        run(flyte, "local", "stop", **home)
    assert answer == '{"hello": "offline"}', answer
    print(f"{run(python, '--version').strip():<15} {what.name}: {told}; serves")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, also where modules in it are still being compiled."""
    folder = Path(tempfile.mkdtemp(prefix="fw-", dir="/tmp"))
    try:
        yield folder
    finally:
        deadline = time.monotonic() + 30
        while folder.exists():
            shutil.rmtree(folder, ignore_errors=time.monotonic() < deadline)


def main() -> None:
    """Check sizes, then every file with every interpreter."""
    options = {word for word in sys.argv[1:] if word.startswith("--")}
    words = [word for word in sys.argv[1:] if word not in options]
    dist, pythons = Path(words[0]).resolve(), words[1:] or interpreters()
    if "--ends" in options:
        # What the versions between them do besides is done by those that run all other tests.
        pythons = [pythons[0], pythons[-1]]
    with scratch_folder() as scratch:
        if "--only-checkout" not in options:
            files(dist, pythons, scratch, with_sdist="--no-sdist" not in options)
        if options & {"--checkout", "--only-checkout"}:
            for python in pythons:
                install(python, ROOT, None, scratch)


def files(dist: Path, pythons: list[str], scratch: Path, *, with_sdist: bool) -> None:
    """The wheel with every interpreter, the sources with the first."""
    (wheel,) = dist.glob("*.whl")
    found = [wheel, *dist.glob("*.tar.gz")]
    for path in found:
        print(f"{path.stat().st_size / 1e6:5.1f} MB  {path.name}")
    # That of another profile is larger than what is published.
    assert wheel.stat().st_size < MOST_BYTES or "--any-size" in sys.argv, "the wheel is too large"
    links = scratch / "links"
    needed = ["cloudpickle>=3", "uv>=0.9", "maturin>=1.9,<2"]
    run(sys.executable, "-m", "pip", "download", "--quiet", "--dest", links, *needed)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda python: install(python, wheel, links, scratch), pythons))
    if with_sdist:
        (sdist,) = found[1:]
        install(pythons[0], sdist, links, scratch)


if __name__ == "__main__":
    main()
