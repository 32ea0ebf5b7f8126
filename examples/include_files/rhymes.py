"""A module of the app in `app.py`."""


def rhyme(lines: list[str]) -> str:
    """Return the lines, numbered."""
    return "".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
