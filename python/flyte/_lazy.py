"""Packages that import nothing until a name of theirs is used.

Owns the two hooks (`__getattr__`, `__dir__`) that a package installs. It knows neither which names
exist nor where they live: each package passes its own table. `import flyte` stays below a
millisecond this way, which every command line call and every replica pays.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Fallback = Callable[[str], BaseException | None]


def suggestion(given: str, candidates: object) -> str:
    """Return `", did you mean `x`?"` for the closest of `candidates`, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(given, [str(name) for name in candidates], n=1)  # type: ignore[attr-defined]
    return f", did you mean `{close[0]}`?" if close else ""


def hooks(
    package: str,
    names: Mapping[str, str],
    submodules: tuple[str, ...] = (),
    refuse: Fallback | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package.

    Args:
        package: full name of the package.
        names: public name to the module that holds it.
        submodules: submodules that are imported when they are touched.
        refuse: gives the exception for a name that exists elsewhere but not here, or `None`.
    """
    import sys

    def load(module: str) -> Any:
        __import__(module)
        return sys.modules[module]

    def getattribute(name: str) -> Any:
        if name in names:
            value = getattr(load(names[name]), name)
        elif name in submodules:
            value = load(f"{package}.{name}")
        else:
            refusal = refuse(name) if refuse is not None else None
            if refusal is not None:
                raise refusal
            # Private names are probes of the import system and of tools, not slips of the hand; they
            # come with each `from flyte import _native`, and what finds suggestions is slow to import.
            hint = "" if name.startswith("_") else suggestion(name, [*names, *submodules])
            raise AttributeError(f"module `{package}` has no attribute `{name}`{hint}", name=name)
        # Kept as a plain global, so that the next look-up does not come here.
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names, *submodules})

    return getattribute, directory
