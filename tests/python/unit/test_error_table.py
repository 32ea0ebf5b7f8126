"""The table of errors is read out of the source, and holds all of them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.messages_by_code()


def test_every_code_has_a_message(table):
    source = (ROOT / "src" / "error.rs").read_text()
    codes = re.findall(r'^    \w+ = "([a-z_.]+)", [A-Z]', source, re.M)
    assert len(codes) > 50
    assert [code for code in codes if not table.get(code)] == []


def test_every_exception_of_the_package_is_there(table):
    told = [message for rows in table.values() for message, _ in rows]
    assert any(message.startswith("port PORT is out of range") for message in told)
    assert any("must be a Kubernetes quantity" in message for message in told)


def test_rows_can_be_read(table):
    for code, rows in table.items():
        for message, hints in rows:
            for text in (message, *hints):
                assert "\\" not in text.replace("\\|", "") and "{}" not in text, (code, text)
                assert not re.fullmatch(r"[A-Z_. ]+", text), (code, text)


def test_what_is_met_most_has_advice(table):
    for code in ("app.exited", "app.wrong_port", "app.missing_module", "app.out_of_memory", "client.denied"):
        assert all(hints for _, hints in table[code]), code
