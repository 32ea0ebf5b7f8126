"""Walks a first-time user's path: what README says at its beginning, and nothing else.

    python tests/first_time.py [--transcript FILE] [--target FOLDER]

The commands are taken from README as they stand and typed into one shell, whose environment is
empty but for a home that is new and a `PATH`. What it prints has to be what README says. The
checkout is cloned from this one. Each place where this had to do what README does not say would be
a place where a person has to guess; there are none but the address of the repository.

A release build takes long: with `--target` the checkout's `target` is that folder, so that what is
built there already is used, and `PROFILE` is passed on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a login shell has, with the toolchain that README asks for.
PASSED = (
    "PATH",
    "LANG",
    "PROFILE",
    "CARGO_TARGET_DIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "CARGO_PROFILE_DEV_DEBUG",
)
# Of packages: whoever is behind a proxy or a mirror has these set.
INDEXES = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
MARK = "--end-of-command--"


def steps() -> list[tuple[str, str]]:
    """Commands of README's first two blocks, each with what is said that it prints."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)[:2]
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(found), re.M)


def pattern(expected: str) -> str:
    lines = []
    for line in expected.splitlines():
        words = re.escape(line.strip()).replace("PORT", r"\d+").replace(r"\.\.\.", ".*")
        lines.append(r"(?:.*\n)*" if line == "..." else words + r"\s*\n")
    # What is built says so before it prints what matters.
    return r"(?:.*\n)*?" + "".join(lines) + r"\Z"


class Shell:
    """One `bash` for all commands, so that what one changes is there for the next."""

    def __init__(self, home: Path) -> None:
        environment = {
            name: value for name, value in os.environ.items() if name in PASSED or name.startswith(INDEXES)
        }
        # Not what runs this: a first-time user has no environment active.
        own = str(Path(sys.executable).parent)
        environment["PATH"] = ":".join(one for one in environment["PATH"].split(":") if one != own)
        # Tools that are found by the home of whoever runs this; a first-time user's are in their own.
        for name, folder in {
            "CARGO_HOME": ".cargo",
            "RUSTUP_HOME": ".rustup",
            "PYENV_ROOT": ".pyenv",
        }.items():
            if name not in environment and (Path.home() / folder).is_dir():
                environment[name] = str(Path.home() / folder)
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env={**environment, "HOME": str(home), "FLYTE_DISABLE_KEYRING": "1"},
        )

    def run(self, command: str) -> tuple[int, str]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{{ {command}\n}} < /dev/null\nstatus=$?; echo; echo {MARK} $status\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line.startswith(MARK):
                return int(line.split()[1]), "".join(lines).removesuffix("\n")
            lines.append(line)
        sys.exit("the shell ended:\n" + "".join(lines))


PAGE = """# A first-time user

What somebody sees who has a new machine and README and nothing else, from the clone to an app of their own that
is served, changed and deleted. `tests/first_time.py` types README's commands and wrote this down; it fails where README does not say
what happens.

<!-- not run: tests/first_time.py does -->
```console
{}```

## Where one had to guess

| Before | Now |
|---|---|
| no command to get the sources | the clone |
| which tools the build needs besides Rust, and how long it takes | named, with the command for Debian |
| after `make serve`, `flyte` was not to be found | a new environment with the wheel, or the checkout's own, are named |
| `pip install ~/flyte-rs` was refused outside of an environment, and built everything a second time | the wheel that is there, into an environment |
| `fastapi` was missing at the first `flyte serve` | it is installed with the wheel |
| where the console is, and how to end it all | `flyte local status`, `flyte local stop` |
"""


def shortened(printed: str) -> str:
    """What compilers say is of no interest behind the first lines."""
    lines = printed.splitlines()
    if len(lines) > 12:
        lines = [*lines[:3], "...", *lines[-3:]]
    return "".join(f"{line}\n" for line in lines if line)


def walk(home: Path, target: Path | None) -> list[str]:
    shell, told = Shell(home), []
    try:
        for command, expected in steps():
            command = command.split("     #")[0].rstrip()
            if command.startswith("make test"):
                continue
            typed = command.replace("URL_OF_THIS_REPOSITORY", str(ROOT))
            status, printed = shell.run(typed)
            if target and command.startswith("git clone"):
                (home / "flyte-rs" / "target").symlink_to(target.resolve())
            told.append(f"$ {command}\n{shortened(printed)}")
            print(told[-1], end="", flush=True)
            if status != 0:
                sys.exit(f"`{command}` ended with {status}")
            if expected and not re.match(pattern(expected), printed.rstrip("\n") + "\n"):
                sys.exit(f"README says of `{command}`:\n{expected}")
    finally:
        shell.run('for venv in ~/my-venv ~/flyte-rs/.venv; do "$venv/bin/flyte" local stop; done')
        shell.process.kill()
    return told


def main() -> None:
    """Walk, and keep what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transcript", type=Path)
    parser.add_argument("--target", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-", dir="/tmp", ignore_cleanup_errors=True) as home:
        told = walk(Path(home), asked.target)
    if asked.transcript:
        text = re.sub(r"/tmp/first-\w+", "/home/ada", "".join(told))
        asked.transcript.write_text(PAGE.format(text))


if __name__ == "__main__":
    main()
