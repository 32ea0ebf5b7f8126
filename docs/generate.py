"""Writes the pages that say what the source says: commands, classes, codes.

`make docs` runs it, and `tests/python/e2e/test_docs.py` fails when a page is stale.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src"


def flyte(*words: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "flyte._cli", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commands() -> str:
    """The reference of the command line, from the command line."""
    return flyte("__reference")


# Codes


def codes() -> str:
    """All codes, and for each the messages and hints that the source has for it."""
    lines = [
        "# Error codes",
        "",
        "A code is contract: scripts may match on it. Messages may change. `flyte explain CODE` prints the",
        "page of a code.",
        "",
        "Generated from `src/error.rs` and the error types by `make docs`.",
        "",
        "| Code | Exception | Exit | Meaning |",
        "|---|---|---|---|",
    ]
    known = json.loads(flyte("explain", "--output", "json"))
    for one in known:
        link = f"[`{one['code']}`]({one['code']}.md)"
        lines.append(f"| {link} | `{one['exception']}` | {one['exit_status']} | {one['meaning']} |")
    messages = messages_by_code()
    lines += ["", "## Messages and hints", ""]
    for one in known:
        told = messages.get(one["code"], [])
        if not told:
            continue
        lines += [f"### {one['code']}", ""]
        for message, hints in told:
            lines.append(f"- {message}")
            lines += [f"    - hint: {hint}" for hint in hints]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def messages_by_code() -> dict[str, list[tuple[str, list[str]]]]:
    """(message, hints) of the variants of every error type, as they stand in the source."""
    table = dict(re.findall(r'^    (\w+) = "([a-z_.]+)", [A-Z]', (SOURCE / "error.rs").read_text(), re.M))
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for path in sorted(SOURCE.rglob("*.rs")):
        text = path.read_text().split("\nmod tests {")[0]
        for implementation in re.finditer(r"impl Diagnostic for (\w+) \{\n(.*?)\n\}\n", text, re.S):
            name, body = implementation.groups()
            declared = re.search(rf"enum {name} \{{\n(.*?)\n\}}\n", text, re.S)
            if declared is None:
                continue
            messages = dict(variants(declared[1]))
            hints = arms(body, "fn hints")
            for variant, result in arms(body, "fn code").items():
                code = re.search(r"Code::(\w+)", result)
                if code is None or variant not in messages or code[1] not in table:
                    continue
                advice = [readable(line) for line in literals(hints.get(variant, ""))]
                found.setdefault(table[code[1]], []).append((readable(messages[variant]), advice))
    return found


def variants(body: str) -> Iterator[tuple[str, str]]:
    """Variants of an enum with the format of their message."""
    pattern = r'#\[error\(\s*"((?:[^"\\]|\\.)*)".*?\)\]\s*(?:#\[[^\]]*\]\s*|///[^\n]*\n\s*)*(\w+)'
    for message, variant in re.findall(pattern, body, re.S):
        yield variant, message


def arms(body: str, function: str) -> dict[str, str]:
    """What each variant leads to in the one `match` of a function."""
    start = body.find(function)
    if start < 0:
        return {}
    text = body[start:].split("\n    fn ", 1)[0]
    found = {}
    parts = re.split(r"((?:\|?\s*Self::\w+(?:\s*\{[^}]*\}|\([^)]*\))?\s*)+(?:if [^=]+)?=>)", text)
    for names, result in zip(parts[1::2], parts[2::2], strict=False):
        for variant in re.findall(r"Self::(\w+)", names):
            found[variant] = result
    return found


def literals(text: str) -> list[str]:
    """Texts of some length: shorter ones are parts of something."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', text, re.S)
    return [literal for literal in found if len(literal) > 15]


def readable(text: str) -> str:
    """A format string as people read it: `{path}` is `PATH`."""
    text = re.sub(r"\\\n\s*", "", text).replace("\\n", " ").replace('\\"', '"')
    text = text.replace("{{", "\0").replace("}}", "\1")
    text = re.sub(r"\{(\w*)[^}]*\}", lambda field: field[1].upper() or "...", text)
    text = text.replace("\0", "{").replace("\1", "}")
    return text.replace("<", "&lt;").replace("|", "\\|")


# Classes and functions

MODULES = ("flyte", "flyte.app", "flyte.app.extras", "flyte.io", "flyte.remote", "flyte.errors")


def classes() -> str:
    """The reference of the package, from its docstrings."""
    lines = ["# Python", "", "Generated from the docstrings by `make docs`.", ""]
    for name in MODULES:
        module = importlib.import_module(name)
        lines += [f"## {name}", ""]
        public = getattr(module, "__all__", None) or [
            key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")
        ]
        for key in sorted(public):
            value = getattr(module, key)
            if inspect.ismodule(value) or not callable(value):
                continue
            lines += entry(f"{name}.{key}", value)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def entry(name: str, value: Any) -> list[str]:
    """One class or function, and the public methods of a class."""
    lines = [f"### {name}", "", *described(value), ""]
    if isinstance(value, type) and not issubclass(value, BaseException):
        for key, member in sorted(vars(value).items()):
            if key.startswith("_"):
                continue
            if isinstance(member, property) or inspect.isgetsetdescriptor(member):
                first = (inspect.getdoc(member) or "").split("\n")[0]
                lines.append(f"- `.{key}`: {first}")
            elif callable(getattr(value, key)):
                first = (inspect.getdoc(getattr(value, key)) or "").split("\n")[0]
                lines.append(f"- `.{key}{signature(getattr(value, key))}`: {first}")
        lines.append("")
    return lines


def signature(value: Callable[..., Any]) -> str:
    """Parameters with their defaults; types stand in the text."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return "(...)"
    shown = [
        str(parameter.replace(annotation=inspect.Parameter.empty))
        for parameter in parameters
        if parameter.name not in ("self", "cls")
    ]
    # Addresses of objects differ with each run.
    return re.sub(r" at 0x[0-9a-f]+", "", f"({', '.join(shown)})")


def described(value: Any) -> list[str]:
    """A docstring as Markdown: sections become lists, examples become code."""
    text = inspect.getdoc(value) or ""
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        heading = re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note):", line)
        if heading:
            lines += close(section) + ["", f"**{heading[1]}**", ""]
            section = heading[1]
            lines += ["```pycon"] if section.startswith("Example") else []
        elif section.startswith("Example"):
            lines.append(re.sub(r"\s*# doctest: \+SKIP", "", line[4:]))
        elif section in ("Args", "Attributes", "Raises") and re.match(r" {4}\S", line):
            key, _, rest = line.strip().partition(": ")
            lines.append(f"- `{key}`: {rest}")
        else:
            lines.append(line.strip() if section == "" else f"  {line.strip()}".rstrip())
    return lines + close(section)


def close(section: str) -> list[str]:
    return ["```"] if section.startswith("Example") else []


PAGES = {"reference/cli.md": commands, "reference/api.md": classes, "errors/index.md": codes}


def main() -> None:
    """Write all pages, or print one."""
    match sys.argv[1:]:
        case ["--print", name]:
            sys.stdout.write(PAGES[name]())
        case []:
            for name, page in PAGES.items():
                (DOCS / name).write_text(page())
        case _:
            sys.exit("usage: generate.py [--print PAGE]")


if __name__ == "__main__":
    main()
