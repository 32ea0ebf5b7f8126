"""Port, Link, Domain, Subdomain, Scaling, Timeouts, context and parameters at run time."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from datetime import timedelta
from types import SimpleNamespace

import pytest

import flyte.app
from flyte.app import AppEnvironment, Domain, Link, Port, Scaling, Subdomain, Timeouts, get_parameter
from flyte.app._context import AppContext
from flyte.app._runtime_parameters import _load_parameters


def test_port():
    assert Port(8080) == Port(port=8080, name=None) != Port(8080, "h2c")
    for wrong in ("80", 1.0, None, True):
        with pytest.raises(TypeError):
            Port(wrong)
    with pytest.raises(TypeError, match="name of a port"):
        Port(80, 1)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Port(80), "port"),
        (Link("/", "t"), "path"),
        (Domain(), "subdomain"),
        (Subdomain("a"), "app_name"),
        (Scaling(), "replicas"),
        (Scaling.Concurrency(1), "val"),
        (Timeouts(), "request"),
        (AppContext(), "mode"),
    ],
)
def test_values_are_frozen_and_hashable(value, field):
    with pytest.raises((AttributeError, FrozenInstanceError)):
        setattr(value, field, 1)
    assert hash(value) == hash(value)


def test_link_and_domain():
    assert Link("/docs", "Docs").is_relative is False
    assert Domain("a", "b.example.org").custom_domain == "b.example.org"
    assert Domain(Subdomain("a")).subdomain == Subdomain("a")
    with pytest.raises(TypeError):
        Domain(1)
    with pytest.raises(TypeError):
        Domain(None, 1)


def test_subdomain():
    env, context = AppEnvironment(name="app"), SimpleNamespace(project="p", domain="d")
    assert Subdomain.from_app_name("x").resolve(env, context) == "x-683d0b87"
    assert Subdomain.from_app_name("x", "default").resolve(env, context) == "x-p-d"
    assert Subdomain.from_function(lambda e, c: e.name + c.project).resolve(env, context) == "appp"
    for wrong in ("", None, 3):
        with pytest.raises(ValueError, match="non-empty str"):
            Subdomain.from_function(lambda e, c, wrong=wrong: wrong).resolve(env, context)
    with pytest.raises(ValueError, match="project and a domain"):
        Subdomain("x").resolve(env, SimpleNamespace(project="p", domain=None))
    with pytest.raises(ValueError, match="exactly one"):
        Subdomain()
    with pytest.raises(ValueError, match="exactly one"):
        Subdomain("x", function=lambda e, c: "y")
    with pytest.raises(ValueError, match="'hash' or 'default'"):
        Subdomain("x", "other")


def test_scaling_values():
    assert Scaling().get_replicas() == (0, 1) and Scaling(3).get_replicas() == (3, 3)
    assert Scaling(0).get_replicas() == (0, 0) and Scaling((1, 5)).replicas == (1, 5)
    assert Scaling(scaledown_after=5).scaledown_after == timedelta(seconds=5)
    assert Scaling(scaledown_after=0).scaledown_after == timedelta(0)
    assert Scaling(metric=Scaling.RequestRate(2)).metric.val == 2


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ValueError, {"replicas": -1}, "greater than or equal to 0"),
        (ValueError, {"replicas": (1, 2, 3)}, "tuple must be of length 2"),
        (ValueError, {"replicas": (-1, 2)}, "greater than or equal to 0"),
        (ValueError, {"replicas": (0, 0)}, "max_replicas must be greater"),
        (ValueError, {"replicas": (3, 2)}, "max_replicas must be greater"),
        (TypeError, {"replicas": [1, 2]}, "replicas must be an int or a tuple"),
        (TypeError, {"replicas": ("1", 2)}, "replicas must be an int or a tuple"),
        (TypeError, {"replicas": True}, "replicas must be an int or a tuple"),
        (TypeError, {"metric": 3}, "metric must be an instance"),
        (TypeError, {"metric": 0}, "metric must be an instance"),
        (TypeError, {"scaledown_after": "x"}, "scaledown_after must be an int or a timedelta"),
        (ValueError, {"scaledown_after": -5}, "non-negative"),
    ],
)
def test_scaling_checks(kind, arguments, message):
    with pytest.raises(kind, match=message):
        Scaling(**arguments)


@pytest.mark.parametrize("metric", [Scaling.Concurrency, Scaling.RequestRate])
def test_metrics(metric):
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        metric(0)
    with pytest.raises(TypeError):
        metric("1")


def test_timeouts():
    assert Timeouts().request is None and Timeouts(0).request == timedelta(0)
    assert Timeouts(3600).request == Timeouts(timedelta(hours=1)).request
    with pytest.raises(ValueError, match="must not exceed 1 hour"):
        Timeouts(3601)
    with pytest.raises(ValueError, match="must be non-negative"):
        Timeouts(-1)
    with pytest.raises(TypeError, match="Expected request"):
        Timeouts("5")


def test_context_is_read_at_each_call(monkeypatch):
    assert flyte.app.ctx() == AppContext(mode="remote", project="", raw_data_path="", domain="")
    monkeypatch.setenv("_RUN_MODE", "local")
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_PROJECT", "p")
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_DOMAIN", "d")
    monkeypatch.setenv("_FLYTE_APP_RAW_DATA_PATH", "/data")
    assert flyte.app.ctx() == AppContext("local", "p", "/data", "d")


@pytest.fixture
def parameters_file(tmp_path):
    _load_parameters.cache_clear()
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"threshold": 0.5, "debug": True, "name": "x"}))
    yield str(path)
    _load_parameters.cache_clear()


@pytest.mark.parametrize("variable", ["FLYTE_PARAMETERS_FILE", "flyte-parameters.json"])
def test_get_parameter(monkeypatch, parameters_file, variable):
    with pytest.raises(ValueError, match="Parameters are not mounted"):
        get_parameter("name")
    monkeypatch.setenv(variable, parameters_file)
    assert (get_parameter("threshold"), get_parameter("debug"), get_parameter("name")) == (0.5, True, "x")
    with pytest.raises(KeyError, match="nope"):
        get_parameter("nope")
    # Memoised: the file is not needed a second time.
    monkeypatch.delenv(variable)
    assert get_parameter("name") == "x"
