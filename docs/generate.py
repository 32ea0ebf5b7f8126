"""Writes the pages that say what the source says: commands, classes, codes.

`make docs` runs it, and `tests/python/e2e/test_docs.py` fails when a page is stale.
"""

from __future__ import annotations

import ast
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
        "Generated from the source by `make docs`. What stands in capitals is filled in.",
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
            sys.exit(f"no message of `{one['code']}` is found in the source")
        lines += [f"### {one['code']}", ""]
        for message, hints in told:
            lines.append(f"- {message}")
            lines += [f"    - hint: {hint}" for hint in hints]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


Told = tuple[str, list[str]]
"""A message and its hints."""

ROOT = DOCS.parent


def messages_by_code() -> dict[str, list[Told]]:
    """(message, hints) for every code, as they stand in the source: of the error types, of what is said
    in passing (`Failure::new(Code::X, ...)`), of the gateway's refusals, and of the Python part."""
    text = (SOURCE / "error.rs").read_text()
    table = dict(re.findall(r'^    (\w+) = "([a-z_.]+)", [A-Z]', text, re.M))
    found: dict[str, list[Told]] = {}

    def add(code: str, message: str, hints: list[str]) -> None:
        told = (readable(message), [readable(hint) for hint in hints])
        # One that is nothing but fields says nothing without what it is made of.
        if re.search(r"[a-z]{2}", told[0]) and told not in found.setdefault(code, []):
            found[code].append(told)

    advice = hints_by_code()
    for path in sorted(SOURCE.rglob("*.rs")):
        # The console gives advice, it has no errors of its own.
        if "console" in path.parts:
            continue
        text = source(path)
        for code, message, hints in error_types(text):
            add(table[code], message, hints)
        for code, message in in_passing(text):
            add(table[code], message, advice.get(code, []))
    for code, message, hints in [*refusals(), *python_errors()]:
        add(code, message, hints)
    return found


def source(path: Path) -> str:
    """A file without its tests."""
    return path.read_text().split("\nmod tests {")[0]


def error_types(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Code, message and hints of the variants of every error type of a file."""
    for implementation in re.finditer(r"impl Diagnostic for (\w+) \{\n(.*?)\n\}\n", text, re.S):
        name, body = implementation.groups()
        declared = re.search(rf"enum {name} \{{\n(.*?)\n\}}\n", text, re.S)
        if declared is None:
            continue
        messages = dict(variants(declared[1]))
        hints = arms(body, "fn hints")
        for variant, results in arms(body, "fn code").items():
            if variant not in messages:
                continue
            for _, result in results:
                for code in codes_in(result, text):
                    meant = [
                        told for names, told in hints.get(variant, []) if is_for(names, variant, code, text)
                    ]
                    yield code, messages[variant], [line for told in meant for line in literals(told)]


def is_for(names: str, variant: str, code: str, text: str) -> bool:
    """Whether an arm that asks for one of a server's codes asks for the one that becomes `code`."""
    asked = re.search(rf"Self::{variant} \{{[^}}]*ErrorCode::(\w+)", names)
    return (
        asked is None
        or re.search(rf"ErrorCode::{asked[1]}\b[^=]*=> (?:\{{\s*)?Code::{code}\b", text) is not None
    )


def codes_in(result: str, text: str) -> list[str]:
    """The codes that an arm leads to, be it by a function of the same file."""
    direct = re.findall(r"Code::([A-Z]\w+)", result)
    if direct:
        return direct
    called = re.match(r"\s*(\w+)\(", result)
    body = called and re.search(rf"\nfn {called[1]}\(.*?\n\}}\n", text, re.S)
    return list(dict.fromkeys(re.findall(r"=> (?:\{\s*)?Code::([A-Z]\w+)", body[0]))) if body else []


LITERAL = r'"((?:[^"\\]|\\.)*)"'


def in_passing(text: str) -> Iterator[tuple[str, str]]:
    """`Failure::new(Code::X, format!("..."))`, `(Code::X, "...".to_owned())`, and uses that make no sense."""
    pattern = rf"[ (]Code::([A-Z]\w+),\s*(?:message: )?(?:format!\(\s*)?{LITERAL}"
    for code, message in re.findall(pattern, text, re.S):
        yield code, message
    usage = rf"(?:Failure::Usage|\busage|\bmistake|\bwrong_type)\(\s*(?:format!\(\s*)?{LITERAL}"
    for message in re.findall(usage, text, re.S):
        yield "ConfigInvalid", message


def hints_by_code() -> dict[str, list[str]]:
    """Advice on failures of apps, which the client gives by their code."""
    found: dict[str, list[str]] = {}
    text = source(SOURCE / "serve" / "hints.rs")
    body = text.split("match (code, named) {")[1].split("\n    }\n}")[0]
    parts = re.split(r"\n        \((Code::[^,]+),", body)
    for names, result in zip(parts[1::2], parts[2::2], strict=True):
        result = result.split("=>", 1)[1]
        advice = literals(result)
        called = re.match(r"\s*(?:vec!\[)?(\w+)\(", result)
        inner = called and re.search(rf"\nfn {called[1]}\(.*?\n\}}\n", text, re.S)
        advice += literals(inner[0]) if inner else []
        for code in re.findall(r"Code::(\w+)", names):
            found.setdefault(code, []).extend(advice)
    return found


def refusals() -> Iterator[tuple[str, str, list[str]]]:
    """What the gateway says in an app's place."""
    text = source(SOURCE / "local" / "gateway" / "refusal.rs")
    for function in re.findall(r"\n    pub\(super\) fn \w+\([^{]*-> Self \{\n(.*?)\n    \}\n", text, re.S):
        code = re.search(r'"(app\.[a-z_]+)"', function)
        for message in re.findall(LITERAL, function, re.S):
            if code and message != code[1]:
                yield code[1], message, []


CLASSES = {"mistake", "wrong_type", "no_file", "no_folder"}


def python_errors() -> Iterator[tuple[str, str, list[str]]]:
    """What the Python part raises, with the code that it gives or its class has."""
    errors = importlib.import_module("flyte.errors")
    for path in sorted((ROOT / "python" / "flyte").rglob("*.py")):
        module = ast.parse(path.read_text())
        constants = {
            target.id: value
            for one in module.body
            if isinstance(one, ast.Assign) and (value := text_of(one.value))
            for target in one.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(module):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args):
                continue
            name, message = call.func.id, text_of(call.args[0])
            kind = getattr(errors, name, None)
            if message is None or not (name in CLASSES or hasattr(kind, "_default_code")):
                continue
            named = {keyword.arg: keyword.value for keyword in call.keywords}
            if name in CLASSES:
                code = "image.invalid" if "code" in named else "config.invalid"
                hints = call.args[1:]
            else:
                given = call.args[1] if len(call.args) > 1 else None
                named_code = constants.get(given.id) if isinstance(given, ast.Name) else text_of(given)
                code = named_code or kind._default_code  # type: ignore[union-attr]
                listed = call.args[2] if len(call.args) > 2 else named.get("hints")
                hints = listed.elts if isinstance(listed, (ast.Tuple, ast.List)) else []
            yield code, message, [hint for one in hints if (hint := text_of(one))]


def text_of(node: ast.AST | None) -> str | None:
    """A literal, with `{name}` for what an f-string fills in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or field_of(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or "") + (text_of(node.right) or "...")
    return None


def field_of(node: ast.AST) -> str:
    names = [
        one.attr if isinstance(one, ast.Attribute) else one.id
        for one in ast.walk(node)
        if isinstance(one, (ast.Attribute, ast.Name))
    ]
    return f"{{{names[0].strip('_')}}}" if names and names[0] != "type" else "..."


def variants(body: str) -> Iterator[tuple[str, str]]:
    """Variants of an enum with the format of their message."""
    pattern = r'#\[error\(\s*"((?:[^"\\]|\\.)*)".*?\)\]\s*(?:#\[[^\]]*\]\s*|///[^\n]*\n\s*)*(\w+)'
    for message, variant in re.findall(pattern, body, re.S):
        yield variant, message


def arms(body: str, function: str) -> dict[str, list[tuple[str, str]]]:
    """For each variant the arms of the one `match` of a function, patterns and what they lead to."""
    start = body.find(function)
    if start < 0:
        return {}
    text = body[start:].split("\n    fn ", 1)[0]
    found: dict[str, list[tuple[str, str]]] = {}
    pattern = r"((?:\|?\s*Self::\w+(?:\s*\{[^}]*\}|\([^)]*\))?\s*)+(?:if (?:(?!=>).)+)?=>)"
    parts = re.split(pattern, text, flags=re.S)
    for names, result in zip(parts[1::2], parts[2::2], strict=False):
        for variant in re.findall(r"Self::(\w+)", names):
            found.setdefault(variant, []).append((names, result))
    return found


def literals(text: str) -> list[str]:
    """Texts of some length: shorter ones are parts of something."""
    found = re.findall(LITERAL, text, re.S)
    return [literal for literal in found if len(literal) > 15]


def readable(text: str) -> str:
    """A format string as people read it: `{path}` is `PATH`."""
    text = re.sub(r"\\\n\s*", "", text).replace("\\n", " ").replace('\\"', '"')
    text = text.replace("{{", "\0").replace("}}", "\1")
    # `${NAME}` in a text that is no format.
    text = re.sub(r"\$\{([A-Z]+)\}", "$\0\\1\1", text)
    text = re.sub(r"\{(\w*)[^}]*\}", field, text)
    text = text.replace("\0", "{").replace("\1", "}")
    return re.sub(r"\s*\n\s*", " ", text).replace("<", "&lt;").replace("|", "\\|")


def field(found: re.Match[str]) -> str:
    """The name of a field; one that has a number only is the reason of an error."""
    name = found[1]
    return "REASON" if name.isdigit() else name.upper() or "..."


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
