"""The small values an app is described with: port, link, domain, scaling, timeouts.

All are frozen and checked when they are made; none knows a platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from .._mistake import mistake, wrong_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from ._environment import AppEnvironment

_RESERVED_PORTS = (8012, 8022, 8112, 9090, 9091)
_MAX_REQUEST = timedelta(hours=1)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Port:
    """The port an app listens on.

    Args:
        port: 1 to 65535, but none of 8012, 8022, 8112, 9090, 9091, which platforms use themselves.
        name: `"http1"` or `"h2c"` (gRPC) for platforms that ask for the protocol.

    Raises:
        TypeError: the number is no int, or the name no str.
        ValueError: a reserved number, or one out of range.
    """

    port: int
    name: str | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.port):
            raise wrong_type(
                f"Expected port to be of type int, got {type(self.port)}",
                "write `port=8080`, or `port=Port(8080, name=...)`",
            )
        if not 1 <= self.port <= 65535:
            raise mistake(
                f"port {self.port} is out of range; ports are 1 to 65535",
                "leave `port` out for 8080; apps of one machine may declare the same port",
            )
        if self.port in _RESERVED_PORTS:
            reserved = ", ".join(map(str, _RESERVED_PORTS))
            raise mistake(
                f"port {self.port} is not allowed; the platform reserves {reserved}",
                "take another one, such as 8080",
            )
        if self.name is not None and not isinstance(self.name, str):
            raise wrong_type(f"Expected the name of a port to be of type str, got {type(self.name)}")


@dataclass(frozen=True)
class Link:
    """A link that is shown on the page of an app.

    Args:
        path: address, or path below the app's address when `is_relative`.
        title: text of the link.
        is_relative: whether `path` is below the app's address.
    """

    path: str
    title: str
    is_relative: bool = False


@dataclass(frozen=True)
class Subdomain:
    """A subdomain that is derived when the app is deployed; made by one of the two constructors.

    Args:
        app_name: first part of the subdomain.
        project_domain_suffix: `"hash"` appends 8 hex digits of project and domain, `"default"`
            appends their names.
        function: called with the app and the context of the deployment; returns the subdomain.

    Raises:
        ValueError: not exactly one of `app_name` and `function`, or an unknown suffix.
    """

    app_name: str | None = None
    project_domain_suffix: Literal["hash", "default"] = "hash"
    function: Callable[[AppEnvironment, Any], str] | None = None

    def __post_init__(self) -> None:
        if (self.app_name is None) == (self.function is None):
            raise mistake(
                "exactly one of app_name and function must be set",
                "use `Subdomain.from_app_name` or `Subdomain.from_function`",
            )
        if self.project_domain_suffix not in ("hash", "default"):
            raise mistake(
                f"project_domain_suffix must be 'hash' or 'default', got {self.project_domain_suffix!r}"
            )

    @classmethod
    def from_app_name(
        cls, app_name: str, project_domain_suffix: Literal["hash", "default"] = "hash"
    ) -> Subdomain:
        """Return the subdomain `<app_name>-<suffix>`, where the suffix tells projects apart.

        Raises:
            ValueError: unknown suffix.
        """
        return cls(app_name=app_name, project_domain_suffix=project_domain_suffix)

    @classmethod
    def from_function(cls, function: Callable[[AppEnvironment, Any], str]) -> Subdomain:
        """Return a subdomain that `function(env, context)` computes when the app is deployed."""
        return cls(function=function)

    def resolve(self, app_env: AppEnvironment, serialization_context: Any) -> str:
        """Return the subdomain.

        Args:
            app_env: the app that is deployed.
            serialization_context: anything with the attributes `project` and `domain`.

        Raises:
            ValueError: project or domain is not known, or the function returns no text.
        """
        if self.function is not None:
            given = self.function(app_env, serialization_context)
            if not isinstance(given, str) or not given:
                raise mistake(
                    f"the subdomain function of app `{app_env.name}` must return a non-empty str, "
                    f"got {given!r}"
                )
            return given
        project, domain = serialization_context.project, serialization_context.domain
        if not project or not domain:
            raise mistake(f"the subdomain of app `{app_env.name}` needs a project and a domain")
        if self.project_domain_suffix == "default":
            return f"{self.app_name}-{project}-{domain}"
        from hashlib import sha256

        return f"{self.app_name}-{sha256(f'{project}-{domain}'.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Domain:
    """Under which address a cluster offers the app.

    Args:
        subdomain: text, or a `Subdomain` that is derived when the app is deployed.
        custom_domain: full host name that the cluster is set up for.

    Raises:
        TypeError: a field of another type.
    """

    subdomain: str | Subdomain | None = None
    custom_domain: str | None = None

    def __post_init__(self) -> None:
        if self.subdomain is not None and not isinstance(self.subdomain, (str, Subdomain)):
            raise wrong_type(f"Expected subdomain to be of type str or Subdomain, got {type(self.subdomain)}")
        if self.custom_domain is not None and not isinstance(self.custom_domain, str):
            raise wrong_type(f"Expected custom_domain to be of type str, got {type(self.custom_domain)}")


def _check_metric(name: str, val: object) -> None:
    if not _is_int(val):
        raise wrong_type(f"Expected {name} to be of type int, got {type(val)}")
    if val < 1:  # type: ignore[operator]
        raise mistake(f"{name} must be greater than or equal to 1, got {val}")


@dataclass(frozen=True)
class Scaling:
    """How many replicas run, and what the number follows.

    Args:
        replicas: a fixed number, or (least, most). Kept as a pair.
        metric: `Scaling.Concurrency(n)` or `Scaling.RequestRate(n)`; `None` leaves it to the platform.
        scaledown_after: how long a replica stays without traffic; an int is seconds.

    Raises:
        TypeError: a field of another type.
        ValueError: negative numbers, or most below least or below 1.

    Example:
        >>> Scaling(replicas=2).get_replicas()
        (2, 2)
    """

    @dataclass(frozen=True)
    class Concurrency:
        """Scale by the number of requests that one replica handles at a time."""

        val: int

        def __post_init__(self) -> None:
            _check_metric("Concurrency", self.val)

    @dataclass(frozen=True)
    class RequestRate:
        """Scale by the number of requests per second that one replica handles."""

        val: int

        def __post_init__(self) -> None:
            _check_metric("RequestRate", self.val)

    replicas: int | tuple[int, int] = (0, 1)
    metric: Scaling.Concurrency | Scaling.RequestRate | None = None
    scaledown_after: int | timedelta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "replicas", _replicas(self.replicas))
        if self.metric is not None and not isinstance(
            self.metric, (Scaling.Concurrency, Scaling.RequestRate)
        ):
            raise wrong_type(
                "metric must be an instance of Scaling.Concurrency or Scaling.RequestRate, "
                f"got {type(self.metric)}",
                "write `metric=Scaling.Concurrency(val=10)`",
            )
        after = self.scaledown_after
        if after is None:
            return
        if _is_int(after):
            after = timedelta(seconds=after)  # type: ignore[arg-type]
        if not isinstance(after, timedelta):
            raise wrong_type(f"scaledown_after must be an int or a timedelta, got {type(after)}")
        if after < timedelta(0):
            raise mistake(f"scaledown_after must be non-negative, got {after}")
        object.__setattr__(self, "scaledown_after", after)

    def get_replicas(self) -> tuple[int, int]:
        """Return (least, most)."""
        return self.replicas  # type: ignore[return-value]


def _replicas(given: object) -> tuple[int, int]:
    if _is_int(given):
        if given < 0:  # type: ignore[operator]
            raise mistake(f"replicas must be greater than or equal to 0, got {given}")
        return given, given  # type: ignore[return-value]
    if not isinstance(given, tuple):
        raise wrong_type(
            f"replicas must be an int or a tuple of two ints, got {given!r}",
            "write `replicas=2`, or `replicas=(0, 3)` for least and most",
        )
    if len(given) != 2:
        raise mistake(
            f"replicas tuple must be of length 2, got {given!r}", "write `replicas=(0, 3)` for least and most"
        )
    if not all(_is_int(number) for number in given):
        raise wrong_type(
            f"replicas must be an int or a tuple of two ints, got {given!r}",
            "write `replicas=2`, or `replicas=(0, 3)` for least and most",
        )
    least, most = given
    if least < 0:
        raise mistake(f"min_replicas must be greater than or equal to 0, got {least}")
    if most < 1 or most < least:
        raise mistake(
            f"max_replicas must be greater than or equal to 1 and min_replicas, got {given!r}",
            "the second number is the larger one: `replicas=(0, 3)`",
        )
    return least, most


@dataclass(frozen=True)
class Timeouts:
    """Time limits of an app.

    Args:
        request: longest duration of one request, at most one hour; an int is seconds.

    Raises:
        TypeError: neither an int nor a timedelta.
        ValueError: negative, or longer than one hour.
    """

    request: int | timedelta | None = None

    def __post_init__(self) -> None:
        request = self.request
        if request is None:
            return
        if _is_int(request):
            request = timedelta(seconds=request)  # type: ignore[arg-type]
        if not isinstance(request, timedelta):
            raise wrong_type(f"Expected request to be of type int or timedelta, got {type(request)}")
        if request < timedelta(0):
            raise mistake(f"request timeout must be non-negative, got {request}")
        if request > _MAX_REQUEST:
            raise mistake(f"request timeout must not exceed 1 hour (3600 seconds), got {request}")
        object.__setattr__(self, "request", request)
