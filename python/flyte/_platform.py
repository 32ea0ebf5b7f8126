"""The process of the local platform: `python -m flyte._platform`, started on demand."""

from __future__ import annotations


def main() -> None:
    """Run the platform of `FLYTE_HOME` until it is told to end."""
    import signal

    from flyte._native import run_platform

    # Rust handles the signals; Python's handlers would only raise in a thread that waits for it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run_platform()


if __name__ == "__main__":
    main()
