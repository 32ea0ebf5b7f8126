"""What an environment costs: made beside bare `uv`, and found beside the PyPI SDK's `flyte build`.

- made: `flyte build --force` and `flyte.build(force=True)` of about 30 packages, beside
  `uv venv && uv pip install` of the same packages; uv's cache is warm, nothing is resolved before.
  Both keep what they made; old environments are cleared away outside the clock.
- found: the decision that nothing is to be built, in a process that runs already, and as the whole
  command `flyte build FILE`. The PyPI SDK is given an image that it need not even ask for.

In CI nothing of this runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _common import Figure, Limit, finish, in_turns, peer_python, quiet, rounds, scratch_home, show

# With what they need about thirty distributions, small and large.
PACKAGES = ["fastapi[standard]", "pandas", "scikit-learn", "requests", "jinja2"]
# What a build may take beside bare uv; and finding out that there is none to do.
MOST_TIMES_UV = 1.15
MOST_DECISION_MS = 1
MOST_COMMAND_MS = 80

APP = """
import flyte, flyte.app
image = flyte.Image.from_debian_base(name="bench"){layers}
env = flyte.app.AppEnvironment(name="bench", args="x", image=image)
"""
PEER_APP = """
import flyte, flyte.app
env = flyte.app.AppEnvironment(name="bench", args="x", image=flyte.Image.from_base("localhost/bench:1"))
"""


def timed(command: list[str], folder: Path, **variables: str) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=quiet(**variables), capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr}")
    return took


def settle() -> None:
    """Wait until no module is being compiled in the background."""
    while subprocess.run(["pgrep", "-f", "compileall"], capture_output=True).returncode == 0:
        time.sleep(0.1)


def made(home: Path, project: Path) -> bool:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv, "uv is a dependency of the package"
    base = getattr(sys, "_base_executable", sys.executable)
    plain = project / "plain"
    packages = ", ".join(repr(name) for name in PACKAGES)
    (project / "app.py").write_text(APP.format(layers=f".with_pip_packages({packages})"))
    flyte = str(Path(sys.executable).with_name("flyte"))

    def bare() -> float:
        settle()
        shutil.rmtree(plain, ignore_errors=True)
        took = timed([uv, "venv", "--quiet", "--python", base, str(plain)], project)
        install = [uv, "pip", "install", "--quiet", "--python", str(plain / "bin" / "python")]
        return took + timed([*install, *PACKAGES], project)

    def command() -> float:
        settle()
        shutil.rmtree(home / "envs", ignore_errors=True)
        return timed([flyte, "build", "--force", "app.py"], project, FLYTE_HOME=str(home))

    def call() -> float:
        import flyte

        settle()
        shutil.rmtree(home / "envs", ignore_errors=True)
        image = flyte.Image.from_debian_base(name="bench").with_pip_packages(*PACKAGES)
        started = time.perf_counter()
        flyte.build(image, force=True)
        return time.perf_counter() - started

    uv_alone, *ours = in_turns(
        {
            "uv venv && uv pip install": bare,
            "flyte.build(image, force=True)": call,
            "flyte build --force app.py": command,
        }
    )
    limits = {figure.name: Limit(times=MOST_TIMES_UV) for figure in ours}
    settle()
    held = subprocess.run([uv, "pip", "list", "--python", plain / "bin" / "python"], capture_output=True)
    return show(
        f"Environments of {len(held.stdout.splitlines()) - 2} packages, uv's cache warm",
        uv_alone,
        ours,
        limits,
    )


def found(home: Path, project: Path) -> bool:
    (project / "app.py").write_text(APP.format(layers=".with_pip_packages('six')"))
    (project / "peer.py").write_text(PEER_APP)
    flyte = str(Path(sys.executable).with_name("flyte"))
    timed([flyte, "build", "app.py"], project, FLYTE_HOME=str(home))
    settle()

    peer = str(peer_python().with_name("flyte"))
    # Not where ours would find it.
    config = home / "peer.yaml"
    config.write_text("admin:\n  endpoint: dns:///localhost:1\n  insecure: true\n")
    variables = {"HOME": str(home), "FLYTECTL_CONFIG": str(config)}
    theirs, whole = in_turns(
        {
            "the PyPI SDK: flyte build, nothing to do": lambda: timed(
                [peer, "build", "peer.py", "env"], project, **variables
            ),
            "flyte build app.py, nothing to do": lambda: timed(
                [flyte, "build", "app.py"], project, FLYTE_HOME=str(home)
            ),
        }
    )
    limits = {whole.name: Limit(most=MOST_COMMAND_MS)}
    met = show("Whole command with nothing to build", theirs, [whole], limits)

    import flyte as module

    image = module.Image.from_debian_base(name="bench").with_pip_packages("six")

    def decide() -> float:
        started = time.perf_counter()
        module.build(image)
        return time.perf_counter() - started

    decided: Figure = rounds("flyte.build(image), nothing to do", decide)
    return show("In a process that runs", decided, [], {decided.name: Limit(most=MOST_DECISION_MS)}) and met


def main() -> None:
    with scratch_home() as home:
        os.environ.update(FLYTE_HOME=str(home))
        project = home / "project"
        project.mkdir()
        met = made(home, project)
        met &= found(home, project)
    finish(met)


if __name__ == "__main__":
    main()
