"""Importing costs nothing, finds every name, and refuses task names in words."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import flyte
import flyte.app
import flyte.app.extras
from flyte.errors import ConfigError, UnsupportedError

# In the files of another part of the project.
ELSEWHERE = {"DeployedAppEnvironment", "current_domain", "current_project", "deploy"}
ELSEWHERE |= {"remote", "serve", "with_servecontext"}


def run(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_loads_nothing_heavy_and_opens_nothing():
    told = run(
        """
import json, socket, sys
def refuse(*args, **kwargs): raise AssertionError("a socket at import")
socket.socket = refuse
opened = []
def hook(event, args):
    if event == "open" and not str(args[0]).endswith(".py") and "__pycache__" not in str(args[0]):
        opened.append(str(args[0]))
sys.addaudithook(hook)
before = set(sys.modules)
import flyte, flyte.app, flyte.app.extras
new = set(sys.modules) - before
from flyte.app import AppEnvironment, Parameter
from flyte import Image
AppEnvironment(name="a", parameters=[Parameter("p", 1)], image=Image.from_debian_base())
print(json.dumps({"first": sorted(new), "all": sorted(sys.modules), "opened": opened}))
"""
    )
    heavy = {"asyncio", "typing_extensions", "fastapi", "pydantic", "uvicorn", "logging", "flyte._native"}
    assert not heavy & set(told["all"])
    assert told["first"] == ["__future__", "atexit", "flyte", "flyte._lazy", "flyte.app", "flyte.app.extras"]
    assert told["opened"] == []


@pytest.mark.parametrize("module", [flyte, flyte.app, flyte.app.extras])
def test_every_public_name_resolves_and_is_listed(module):
    for name in module.__all__:
        assert name in dir(module)
        if name not in ELSEWHERE and not name.startswith("init"):
            assert getattr(module, name) is not None
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize(
    "where, names",
    [
        ("flyte._serving", "serve with_servecontext deploy"),
        ("flyte._build", "build build_images ImageBuild ImageCache"),
        ("flyte._init", "init init_from_config init_from_api_key init_passthrough init_in_cluster"),
    ],
)
def test_names_that_do_things_come_from_modules_of_their_own(monkeypatch, where, names):
    import types

    module = types.ModuleType(where)
    for name in names.split():
        setattr(module, name, object())
    monkeypatch.setitem(sys.modules, where, module)
    for name in names.split():
        # Noted by monkeypatch, so that what other tests have looked up is there again afterwards.
        monkeypatch.setitem(vars(flyte), name, None)
        del vars(flyte)[name]
        assert getattr(flyte, name) is getattr(module, name)


@pytest.mark.parametrize(
    "name",
    "TaskEnvironment run with_runcontext map trace group Cron FixedRate Trigger ReusePolicy Retry RetryStrategy "
    "Cache Timeout custom_context prefetch".split(),
)
def test_task_names_say_where_tasks_run(name):
    with pytest.raises(UnsupportedError, match="flyte-rs serves apps only") as caught:
        getattr(flyte, name)
    assert f"`flyte.{name}`" in str(caught.value)
    assert "PyPI package `flyte`" in caught.value.message
    assert isinstance(caught.value, ConfigError) and isinstance(caught.value, NotImplementedError)
    assert caught.value.code == "config.unsupported"


def test_from_import_of_a_task_name_says_the_same():
    with pytest.raises(UnsupportedError):
        from flyte import TaskEnvironment  # noqa: F401


def test_unknown_names_are_attribute_errors_with_a_suggestion():
    with pytest.raises(AttributeError, match="did you mean `Resources`"):
        flyte.Resource
    with pytest.raises(AttributeError, match="did you mean `get_parameter`"):
        flyte.app.get_parameters
    assert not hasattr(flyte, "__wrapped__")


def test_version_and_task_context():
    assert flyte.version() == flyte.__version__
    assert flyte.ctx() is None


def test_logger_is_the_packages_own():
    assert flyte.logger.name == "flyte"
