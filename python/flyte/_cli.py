"""The console script `flyte`; everything it does is in Rust."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from flyte._native import command_line

    sys.exit(command_line(["flyte", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
