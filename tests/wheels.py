"""Installs what `make wheels` made into clean environments without an index, and uses it.

    python tests/wheels.py DIST PYTHON...

What the package depends on is downloaded once into a folder; from then on `pip` gets nothing but
`--no-index --find-links`. The sources are built once, with the first interpreter: that takes as
long as a release build, unless `--no-sdist` is given.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MOST_BYTES = 20_000_000
TRY = "import flyte, flyte.app; print(flyte.__version__, flyte.app.AppEnvironment(name='a', args='b').name)"


def run(*words: str | Path, **more: str) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env={**os.environ, **more})
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def install(python: str, what: Path, links: Path, scratch: Path) -> None:
    """Install one file into a new environment, serve an app with it, and end its platform."""
    venv = scratch / f"venv-{abs(hash((python, what.name)))}"
    run(python, "-m", "venv", venv)
    pip = [venv / "bin" / "python", "-m", "pip", "--isolated", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-index", "--find-links", links, what)
    told = run(venv / "bin" / "python", "-c", TRY).strip()
    home = {"FLYTE_HOME": str(scratch / "h"), "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
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


def main() -> None:
    """Check sizes, then every file with every interpreter."""
    words = [word for word in sys.argv[1:] if word != "--no-sdist"]
    dist, pythons = Path(words[0]).resolve(), words[1:]
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    for path in (wheel, sdist):
        print(f"{path.stat().st_size / 1e6:5.1f} MB  {path.name}")
    assert wheel.stat().st_size < MOST_BYTES, "the wheel is too large"
    with tempfile.TemporaryDirectory(prefix="fw-", dir="/tmp") as folder:
        scratch = Path(folder)
        links = scratch / "links"
        needed = ["cloudpickle>=3", "uv>=0.9", "maturin>=1.9,<2"]
        run(sys.executable, "-m", "pip", "download", "--quiet", "--dest", links, *needed)
        for python in pythons:
            install(python, wheel, links, scratch)
        if "--no-sdist" not in sys.argv:
            install(pythons[0], sdist, links, scratch)


if __name__ == "__main__":
    main()
