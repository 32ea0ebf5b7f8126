"""What the figures are compared with: installed, and which versions they are.

`make bench` runs this first. Packages of PyPI get an environment each below `benches/.peers`, with
pinned versions; programs of Debian are installed by `apt-get` where that is there and allowed, and
named where not. A bench whose peer is missing fails, it does not pass over it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE / ".peers"

# One environment each, so that nothing of one peer changes another.
PYPI = {
    "sdk": ["flyte==2.12.1"],
    "sdk-fastapi": ["flyte==2.12.1", "fastapi", "uvicorn"],
    "fastapi": ["fastapi[standard]==0.165.0"],
    "bentoml": ["bentoml==1.4.39", "fastapi"],
    "litserve": ["litserve==0.2.19"],
    "awscli": ["awscli==1.46.3"],
}
# Program, and Debian's package of it.
DEBIAN = {
    "nginx": "nginx-light",
    "wrk": "wrk",
    "haproxy": "haproxy",
    "caddy": "caddy",
    "docker": "docker.io",
    "docker-registry": "docker-registry",
    "zstd": "zstd",
    "tar": "tar",
    "curl": "curl",
    "go": "golang-go",
}
# Distribution whose version is told, and the environment it is looked up in.
TOLD = {
    "the PyPI SDK": ("flyte", "sdk"),
    "BentoML": ("bentoml", "bentoml"),
    "LitServe": ("litserve", "litserve"),
    "uvicorn": ("uvicorn", "fastapi"),
    "FastAPI": ("fastapi", "fastapi"),
    "AWS command line": ("awscli", "awscli"),
}
PROGRAMS = {
    "nginx": ["nginx", "-v"],
    "haproxy": ["haproxy", "-v"],
    "Caddy": ["caddy", "version"],
    "wrk": ["wrk", "--version"],
    "GNU tar": ["tar", "--version"],
    "zstd": ["zstd", "--version"],
    "uv": ["uv", "--version"],
    "Docker Engine": ["docker", "version", "--format", "{{.Server.Version}}"],
    "Docker registry": ["docker-registry", "--version"],
    "Go": ["go", "version"],
    "Rust": ["rustc", "--version"],
}
# Debian's programs for the system lie where users do not look.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def environment(name: str) -> Path:
    """The interpreter of a peer's environment, which is made if need be."""
    python = PEERS / name / "bin" / "python"
    # Written last, so that an environment that was left half made is made anew.
    made = python.parents[1] / ".made"
    packages = PYPI[name]
    if not made.exists() or made.read_text().split() != packages:
        print(f"making {python.parents[1]}: {' '.join(packages)}", file=sys.stderr)
        shutil.rmtree(python.parents[1], ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True, stdout=sys.stderr)
        made.write_text("\n".join(packages))
    return python


def missing() -> list[str]:
    """Packages of Debian whose program is not there."""
    return [package for program, package in DEBIAN.items() if not shutil.which(program, path=PATH)]


def install_programs() -> None:
    """What Debian has, where this may be done; and the engine with the image that containers start from."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        if packages := missing():
            print(f"peers that are missing, to be installed by root: {' '.join(packages)}", file=sys.stderr)
        return
    own = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if packages := missing():
        print(f"installing {' '.join(packages)}", file=sys.stderr)
        subprocess.run(["apt-get", "update", "-qq"], env=own, check=True, stdout=sys.stderr)
        words = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
        subprocess.run(words, env=own, check=True, stdout=sys.stderr)
    subprocess.run([str(HERE.parent / ".ci" / "docker")], check=True, stdout=sys.stderr)


def told(words: list[str]) -> str:
    """The first line that a program says."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PATH": PATH})
    except FileNotFoundError:
        return "absent"
    found = (done.stdout + done.stderr).strip().splitlines()
    return found[0].strip() if found else "?"


def versions() -> dict[str, str]:
    """Every peer, and which one it is."""
    found = {}
    for name, (distribution, venv) in TOLD.items():
        code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        python = PEERS / venv / "bin" / "python"
        found[name] = told([str(python), "-c", code]) if python.exists() else "absent"
    for name, words in PROGRAMS.items():
        line = told(words)
        numbers = re.search(r"\d+(\.\d+)+\S*", line)
        found[name] = numbers[0].rstrip(",") if numbers else line
    return found


def main() -> None:
    install_programs()
    for name in PYPI:
        environment(name)
    for name, version in versions().items():
        print(f"{name}: {version}")


if __name__ == "__main__":
    main()
