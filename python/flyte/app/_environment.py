"""`AppEnvironment`: one app, as its author declares it.

Holds values and checks them. Building, shipping and starting are the core's business; it reads the
fields and calls the few underscored methods that give one form to what users may write in several.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from .._environment import Environment, _wrong
from .._mistake import mistake, wrong_type
from ._parameter import Parameter
from ._types import Domain, Link, Port, Scaling, Timeouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])
    _Self = TypeVar("_Self", bound="AppEnvironment")

_APP_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(repr=False)
class AppEnvironment(Environment):
    """An app: a long-running process that answers on a port.

    What runs is, in this order, the function given to `server`, `command`, or `args`. The fields
    of `Environment` come first.

    Args:
        type: free text shown to people, such as `"FastAPI"`.
        port: port that the app listens on; a number or a `Port`.
        args: what to run: text that is split like a shell would, or a list. `$NAME` at the start
            of an item is replaced by that environment variable.
        command: what to run instead of flyte's own start-up, which then cannot bring parameters.
        requires_auth: whether the platform lets in only those who are logged in.
        scaling: how many replicas run.
        domain: address of the app on a cluster.
        links: links shown on the app's page.
        parameters: values the app is given when it starts; names must differ.
        cluster_pool: pool of clusters to run on.
        cluster: one cluster to run on, instead of a pool.
        timeouts: time limits.

    Raises:
        TypeError: a field of another type.
        ValueError: a name with other characters than lower-case letters, digits and `-`, a
            reserved port, two parameters of one name, `parameters` together with a `command` that
            is not `fserve`, or `cluster` together with a pool.

    Example:
        >>> env = AppEnvironment(name="hello", args="python -m http.server 8080")
        >>> env.get_port()
        Port(port=8080, name=None)
    """

    type: str | None = None
    port: int | Port = 8080
    args: list[str] | str | None = None
    command: list[str] | str | None = None
    requires_auth: bool = True
    scaling: Scaling = field(default_factory=Scaling)
    domain: Domain | None = field(default_factory=Domain)
    links: list[Link] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    cluster_pool: str = "default"
    cluster: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        self._server: Callable[..., Any] | None = None
        self._on_startup: Callable[..., Any] | None = None
        self._on_shutdown: Callable[..., Any] | None = None
        # What a subclass serves unless its user decorates a function of his own.
        self._default_server: Callable[..., Any] | None = None
        self.port = self._as_port(self.port)
        self._check_fields()
        self._check_parameters()
        # Last, because it registers: an environment that is refused must not be found later.
        super().__post_init__()

    @staticmethod
    def _as_port(port: object) -> Port:
        if isinstance(port, Port):
            return port
        if isinstance(port, int):
            return Port(port)
        raise _wrong("port", "int or Port", port)

    def _check_name(self) -> None:
        if not isinstance(self.name, str):
            raise _wrong("name", "str", self.name)
        if not _APP_NAME.fullmatch(self.name):
            raise mistake(
                f"App name '{self.name}' must consist of lower case alphanumeric characters or '-', "
                "and must start and end with an alphanumeric character",
                "for instance `my-app-2`; `flyte serve --name NAME` names one differently for a single serve",
            )

    def _check_fields(self) -> None:
        for name in ("args", "command"):
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                continue
            if not isinstance(value, list):
                raise _wrong(name, "List[str] or str", value)
            for item in value:
                if not isinstance(item, str):
                    raise _wrong(name, "List[str] or str", item)
        if not isinstance(self.scaling, Scaling):
            raise _wrong("scaling", "Scaling", self.scaling)
        if self.domain is not None and not isinstance(self.domain, Domain):
            raise _wrong("domain", "Domain or None", self.domain)
        _check_list("links", self.links, Link)
        if not isinstance(self.timeouts, Timeouts):
            raise _wrong("timeouts", "Timeouts", self.timeouts)
        if self.cluster is not None and self.cluster_pool != "default":
            raise mistake(
                f"'cluster' ({self.cluster!r}) and 'cluster_pool' ({self.cluster_pool!r}) "
                "are mutually exclusive",
                "name a cluster or a pool, and leave the other one out",
            )

    def _check_parameters(self) -> None:
        _check_list("parameters", self.parameters, Parameter)
        seen: set[str] = set()
        for parameter in self.parameters:
            if parameter.name in seen:
                raise mistake(
                    f"duplicate parameter name `{parameter.name}` in app `{self.name}`",
                    "parameters are told apart by their names; rename one",
                )
            seen.add(parameter.name)
        command = self._command()
        if self.parameters and command is not None and command[:1] != ["fserve"]:
            raise mistake(
                "Cannot use 'parameters' with a custom 'command' other than `fserve`, which is what brings "
                "them; use 'args', or decorate a function with `server`"
            )

    def _args(self) -> list[str] | None:
        """`args` as a list, for the core; `None` when there are none."""
        return _words(self.args)

    def _command(self) -> list[str] | None:
        """`command` as a list, for the core; `None` when flyte's own start-up is used."""
        return _words(self.command)

    def container_args(self, ctx: object = None) -> list[str]:
        """Return the arguments of the app's process, split into items.

        Args:
            ctx: ignored; there for code that passes the context of a deployment.
        """
        return self._args() or []

    def server(self, fn: Function) -> Function:
        """Make `fn` what the app runs; returned unchanged, so usable as a decorator.

        The function may be async, and gets those parameters that its arguments name. The app ends
        when it returns. The last function that is given counts.

        Raises:
            TypeError: `fn` cannot be called.
        """
        self._server = _callable("server", fn)
        return fn

    def on_startup(self, fn: Function) -> Function:
        """Run `fn` before the server; a decorator. An exception keeps the app from starting.

        Raises:
            TypeError: `fn` cannot be called.
        """
        self._on_startup = _callable("on_startup", fn)
        return fn

    def on_shutdown(self, fn: Function) -> Function:
        """Run `fn` after the server has ended or was told to end; a decorator.

        Raises:
            TypeError: `fn` cannot be called.
        """
        self._on_shutdown = _callable("on_shutdown", fn)
        return fn

    def get_port(self) -> Port:
        """Return the port to listen on.

        Inside a replica this is the port that the platform chose, which differs from the declared
        one where several replicas share a machine, or what `flyte serve --port` asked for. Servers
        should ask here.
        """
        assert isinstance(self.port, Port)
        chosen = os.environ.get("_FLYTE_APP_PORT")
        # An app may be served under another name than it declares.
        own = os.environ.get("_FLYTE_DECLARED_NAME") or os.environ.get("_FLYTE_APP_NAME")
        if chosen and own == self.name:
            return Port(int(chosen), self.port.name)
        return self.port

    @property
    def endpoint(self) -> str:
        """URL of this app, as its callers see it.

        Raises:
            flyte.errors.NotFoundError: the app is not served.
            flyte.errors.UnavailableError: the platform cannot be asked.
        """
        pattern = os.environ.get("INTERNAL_APP_ENDPOINT_PATTERN")
        if pattern:
            # Not str.format: a pattern may hold other braces, which are the platform's.
            return pattern.replace("{app_fqdn}", self.name)
        from flyte._native import app_endpoint

        return app_endpoint(self.name)

    def clone_with(self: _Self, name: str, **changes: Any) -> _Self:
        """Return a new app like this one, under another name, with the same functions.

        Args:
            name: name of the new app.
            changes: fields to set anew; `None` keeps what this app has.

        Raises:
            TypeError: a field that does not exist.

        Example:
            >>> small = AppEnvironment(name="small", args="serve")
            >>> small.clone_with("large", scaling=Scaling(replicas=4)).args
            'serve'
        """
        clone = super().clone_with(name, **changes)
        clone._on_startup, clone._on_shutdown = self._on_startup, self._on_shutdown
        # The default server belongs to the object: the clone has made its own.
        if self._server is not self._default_server:
            clone._server = self._server
        return clone


def _words(value: list[str] | str | None) -> list[str] | None:
    if isinstance(value, str):
        import shlex

        return shlex.split(value)
    return None if value is None else list(value)


def _check_list(field: str, values: object, kind: type) -> None:
    if not isinstance(values, list):
        raise _wrong(field, f"List[{kind.__name__}]", values)
    for value in values:
        if not isinstance(value, kind):
            raise _wrong(field, f"List[{kind.__name__}]", value)


def _callable(hook: str, fn: Any) -> Any:
    if not callable(fn):
        raise wrong_type(f"Expected {hook} to be given a function, got {type(fn)}")
    return fn
