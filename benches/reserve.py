"""What a script costs that serves an app again with nothing changed, beside a script that does nothing.

Whole processes are timed, from their start to their end: interpreter, imports, bundling and the
questions to the platform. The difference to `python -c pass` is what flyte costs in a save-and-run
loop.
"""

from __future__ import annotations

import subprocess
import sys
import time

from _common import quiet, rounds, scratch_home, show

SCRIPT = """
import flyte, flyte.app

env = flyte.app.AppEnvironment(name="bench", args=["python", "-m", "http.server", "8080"])

if __name__ == "__main__":
    app = flyte.serve(env)
    print(app.revision, app.endpoint)
"""


def main() -> None:
    with scratch_home() as home:
        project = home / "project"
        project.mkdir()
        (project / "script.py").write_text(SCRIPT)
        seen: set[str] = set()

        def run(*words: str) -> float:
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *words],
                cwd=project,
                env=quiet(FLYTE_HOME=str(home)),
                capture_output=True,
                text=True,
            )
            took = time.perf_counter() - started
            if done.returncode:
                raise RuntimeError(f"{words} failed:\n{done.stderr}")
            seen.add(done.stdout)
            return took

        nothing = rounds("python -c pass", lambda: run("-c", "pass"))
        seen.clear()
        again = rounds("python script.py, which serves an unchanged app", lambda: run("script.py"))
        if len(seen) != 1:
            raise RuntimeError(f"the app was changed or started again: {seen}")
        imports = rounds("python -c 'import flyte, flyte.app'", lambda: run("-c", "import flyte, flyte.app"))
        show("Serving again with nothing changed", nothing, [imports, again])


if __name__ == "__main__":
    main()
