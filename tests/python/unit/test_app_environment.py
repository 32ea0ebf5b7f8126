"""AppEnvironment: defaults, checks, functions, clones, ports and endpoints."""

from __future__ import annotations

import pytest

import flyte
from flyte.app import (
    AppEnvironment,
    ConnectorEnvironment,
    Domain,
    Link,
    Parameter,
    Port,
    Scaling,
    Timeouts,
)


def test_defaults():
    env = AppEnvironment(name="app")
    assert env.port == Port(8080) and env.requires_auth is True and env.type is None
    assert env.args is None and env.command is None and env.links == [] and env.parameters == []
    assert env.scaling == Scaling() and env.domain == Domain() and env.timeouts == Timeouts()
    assert env.cluster_pool == "default" and env.cluster is None
    assert env._server is None and env._on_startup is None and env._on_shutdown is None


def test_field_order_is_the_declared_one():
    from dataclasses import fields

    assert [one.name for one in fields(AppEnvironment)] == (
        "name depends_on pod_template description secrets env_vars resources interruptible image include "
        "service_account type port args command requires_auth scaling domain links parameters cluster_pool "
        "cluster timeouts"
    ).split()


@pytest.mark.parametrize("name", ["my-app", "app123", "a0", "my-app-v2", "a"])
def test_valid_names(name):
    assert AppEnvironment(name=name).name == name


@pytest.mark.parametrize("name", ["My-App", "my_app", "-app", "app-", "APP", "a.b", r"a\.b", "", "a\n"])
def test_invalid_names(name):
    with pytest.raises(ValueError, match="must consist of lower case"):
        AppEnvironment(name=name)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", None, "Expected name"),
        ("port", "8080", "Expected port to be of type int or Port"),
        ("port", True, "Expected port"),
        ("args", ("a",), "Expected args to be of type"),
        ("args", [1], "Expected args to be of type"),
        ("command", 3, "Expected command to be of type"),
        ("scaling", 1, "Expected scaling to be of type"),
        ("domain", "x", "Expected domain to be of type"),
        ("links", ["x"], "Expected links to be of type"),
        ("links", Link("/", "x"), "Expected links to be of type"),
        ("parameters", ["x"], "Expected parameters to be of type"),
        ("parameters", [Link("/", "x")], "Expected parameters to be of type"),
        ("timeouts", 3, "Expected timeouts to be of type"),
    ],
)
def test_types_are_checked(field, value, message):
    with pytest.raises(TypeError, match=message):
        AppEnvironment(**{"name": "app", field: value})


@pytest.mark.parametrize("port", [8012, 8022, 8112, 9090, 9091])
def test_reserved_ports(port):
    with pytest.raises(ValueError, match=f"port {port} is not allowed"):
        AppEnvironment(name="app", port=port)


@pytest.mark.parametrize("port", [-1, 0, 65536, 70000])
def test_ports_out_of_range(port):
    with pytest.raises(ValueError, match="out of range"):
        AppEnvironment(name="app", port=port)


def test_values_are_stored_unchanged():
    fields = {
        "scaling": Scaling(replicas=2),
        "domain": None,
        "links": [Link("/", "home")],
        "parameters": [Parameter("p", "v")],
        "resources": flyte.Resources(cpu=1),
        "env_vars": {"A": "b"},
        "secrets": "key",
        "type": "Streamlit",
        "args": ["a", "b c"],
        "cluster_pool": "gpu",
        "timeouts": Timeouts(60),
        "port": Port(9000, "http1"),
    }
    env = AppEnvironment(name="app", **fields)
    for name, value in fields.items():
        assert getattr(env, name) == value
    assert AppEnvironment(name="app", include=["a"]).include == ("a",)


def test_equality_is_by_field_and_there_is_no_hash():
    assert AppEnvironment(name="a") == AppEnvironment(name="a") != AppEnvironment(name="b")
    with pytest.raises(TypeError):
        hash(AppEnvironment(name="a"))


@pytest.mark.parametrize("command", ["python app.py", ["python"], "", []])
def test_parameters_need_fserve(command):
    with pytest.raises(ValueError, match="Cannot use 'parameters' with a custom 'command'"):
        AppEnvironment(name="app", command=command, parameters=[Parameter("p", "v")])


def test_parameters_with_fserve_or_without_command():
    parameters = [Parameter("p", "v")]
    for command in (None, "fserve --x", ["fserve"]):
        assert AppEnvironment(name="app", command=command, parameters=parameters).command == command


def test_duplicate_parameter_names():
    with pytest.raises(ValueError, match="duplicate parameter name `p`"):
        AppEnvironment(name="app", parameters=[Parameter("p", "a"), Parameter("p", "b")])


def test_cluster_excludes_a_pool():
    with pytest.raises(ValueError, match="mutually exclusive"):
        AppEnvironment(name="app", cluster="c", cluster_pool="p")
    assert AppEnvironment(name="app", cluster="c").cluster == "c"


def test_args_and_command_as_lists():
    env = AppEnvironment(name="app", args="run 'a b'", command=["x", "y z"])
    assert env._args() == env.container_args() == env.container_args(None) == ["run", "a b"]
    assert env._command() == ["x", "y z"]
    env.container_args().append("more")
    assert env.container_args() == ["run", "a b"] and env.command == ["x", "y z"]
    assert AppEnvironment(name="app").container_args() == []
    assert AppEnvironment(name="app")._args() is None and AppEnvironment(name="app")._command() is None


def test_decorators_store_and_return_the_function():
    env = AppEnvironment(name="app")

    async def serve(): ...
    def start(): ...
    def stop(): ...

    assert env.server(serve) is serve and env._server is serve
    assert env.on_startup(start) is start and env._on_startup is start
    assert env.on_shutdown(stop) is stop and env._on_shutdown is stop
    assert env.server(start) is start and env._server is start
    with pytest.raises(TypeError, match="Expected server to be given a function"):
        env.server(None)


def test_clone_keeps_functions_and_fields():
    env = AppEnvironment(
        name="a", args="x", requires_auth=False, include=["f"], parameters=[Parameter("p", "v")]
    )
    hooks = [env.server(lambda: 1), env.on_startup(lambda: 2), env.on_shutdown(lambda: 3)]
    clone = env.clone_with("b")
    assert [clone._server, clone._on_startup, clone._on_shutdown] == hooks
    assert (
        clone.name == "b" and clone.args == "x" and clone.requires_auth is False and clone.include == ("f",)
    )
    clone.parameters.append(Parameter("q", "v"))
    assert len(env.parameters) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "t"),
        ("args", "y"),
        ("command", "c"),
        ("requires_auth", False),
        ("scaling", Scaling(replicas=3)),
        ("domain", Domain("d")),
        ("links", [Link("/", "x")]),
        ("include", ("z",)),
        ("parameters", [Parameter("p", "v")]),
        ("cluster_pool", "p"),
        ("cluster", "c"),
        ("pod_template", "t"),
        ("timeouts", Timeouts(1)),
        ("image", "img"),
        ("resources", flyte.Resources(cpu=1)),
        ("env_vars", {"A": "b"}),
        ("secrets", "k"),
        ("description", "d"),
        ("interruptible", True),
        ("service_account", "s"),
    ],
)
def test_clone_sets_and_none_keeps(field, value):
    env = AppEnvironment(name="a")
    clone = env.clone_with("b", **{field: value})
    assert getattr(clone, field) == value != getattr(env, field)
    assert getattr(clone.clone_with("c", **{field: None}), field) == value


def test_clone_refuses_unknown_fields():
    with pytest.raises(
        TypeError, match=r"Unexpected keyword arguments: \['scalings'\], did you mean `scaling`\?"
    ):
        AppEnvironment(name="a").clone_with("b", scalings=Scaling())


def test_get_port_follows_the_platform(monkeypatch):
    env = AppEnvironment(name="a", port=Port(9000, "h2c"))
    assert env.get_port() == Port(9000, "h2c")
    monkeypatch.setenv("_FLYTE_APP_PORT", "12345")
    assert env.get_port().port == 9000
    monkeypatch.setenv("_FLYTE_APP_NAME", "b")
    assert env.get_port().port == 9000
    monkeypatch.setenv("_FLYTE_APP_NAME", "a")
    assert env.get_port() == Port(12345, "h2c")


def test_get_port_follows_an_app_under_another_name(monkeypatch):
    env, neighbour = AppEnvironment(name="a"), AppEnvironment(name="served-as")
    monkeypatch.setenv("_FLYTE_APP_PORT", "12345")
    monkeypatch.setenv("_FLYTE_DECLARED_NAME", "a")
    assert env.get_port().port == 12345, "a cluster need not tell the app's name"
    monkeypatch.setenv("_FLYTE_APP_NAME", "served-as")
    assert (env.get_port().port, neighbour.get_port().port) == (12345, 8080)


def test_endpoint_from_the_pattern(monkeypatch):
    monkeypatch.setenv("INTERNAL_APP_ENDPOINT_PATTERN", "http://{app_fqdn}.{other}.svc")
    assert AppEnvironment(name="a").endpoint == "http://a.{other}.svc"


def test_endpoint_from_the_platform(native):
    asked = []
    native.app_endpoint = lambda name: asked.append(name) or "http://localhost:1"
    assert AppEnvironment(name="a").endpoint == "http://localhost:1" and asked == ["a"]


def test_connector_defaults():
    env = ConnectorEnvironment(name="c", include=["pkg/one.py", "./two.py"])
    assert isinstance(env, AppEnvironment) and env.type == "connector" and env.port == Port(8080, "h2c")
    assert env.container_args() == "c0 --port 8080 --prometheus_port 9092 --modules pkg.one two".split()
    assert ConnectorEnvironment(name="c", port=9000).port == Port(9000, "h2c")
    assert ConnectorEnvironment(name="c", port=Port(9000)).port == Port(9000)


def test_connector_args_and_checks():
    assert ConnectorEnvironment(name="c", args=[]).container_args() == []
    assert ConnectorEnvironment(name="c", args="a 'b c'").container_args() == ["a", "b c"]
    assert ConnectorEnvironment(name="c", command="x y").command == "x y"
    with pytest.raises(ValueError, match="is not allowed"):
        ConnectorEnvironment(name="c", port=9090)
    with pytest.raises(ValueError, match="must consist of lower case"):
        ConnectorEnvironment(name="C")
