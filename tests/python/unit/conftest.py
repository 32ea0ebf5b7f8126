"""Unit tests of the declarative API: no platform, no native module, no network."""

from __future__ import annotations

import sys
import types

import pytest

_VARIABLES = (
    "_FLYTE_APP_NAME",
    "_FLYTE_APP_PORT",
    "_FLYTE_APP_RAW_DATA_PATH",
    "_FLYTE_DECLARED_NAME",
    "_FLYTE_IN_REPLICA",
    "_RUN_MODE",
    "FLYTE_INTERNAL_EXECUTION_DOMAIN",
    "FLYTE_INTERNAL_EXECUTION_PROJECT",
    "FLYTE_PARAMETERS_FILE",
    "INTERNAL_APP_ENDPOINT_PATTERN",
    "flyte-parameters.json",
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def native(monkeypatch):
    """A stand-in for the native module; tests put the functions they need on it."""
    module = types.ModuleType("flyte._native")
    monkeypatch.setitem(sys.modules, "flyte._native", module)
    return module
