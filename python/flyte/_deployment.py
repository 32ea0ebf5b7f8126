"""What `flyte.deploy` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from flyte.app import AppEnvironment
    from flyte.remote import App


@dataclass(frozen=True)
class DeployedAppEnvironment:
    """One app that was deployed.

    Args:
        env: the environment as it was declared.
        deployed_app: the app on the platform.
    """

    env: AppEnvironment
    deployed_app: App

    def get_name(self) -> str:
        """Return the app's name."""
        return str(self.deployed_app.name)

    def env_repr(self) -> list[tuple[str, str]]:
        """Return rows (label, value) on the environment."""
        return [("environment", self.env.name), ("type", self.env.type or "app")]

    def table_repr(self) -> list[list[tuple[str, str]]]:
        """Return rows (label, value) on the app."""
        app = self.deployed_app
        return [
            [
                ("name", str(app.name)),
                ("revision", str(app.revision)),
                ("status", str(app.deployment_status)),
                ("endpoint", str(app.endpoint)),
                ("url", str(app.url)),
            ]
        ]

    def summary_repr(self) -> str:
        """Return one line: name, state and endpoint."""
        app = self.deployed_app
        return f"{app.name} revision {app.revision} is {app.deployment_status} at {app.endpoint}"


@dataclass(frozen=True)
class Deployment:
    """One deployed environment and all that it depends on.

    Args:
        envs: by name, the environment itself first.

    Example:
        >>> deployment, = flyte.deploy(env)     # doctest: +SKIP
        >>> deployment.url                      # doctest: +SKIP
    """

    envs: dict[str, DeployedAppEnvironment] = field(default_factory=dict)

    @classmethod
    def of(cls, deployed: list[tuple[AppEnvironment, App]]) -> Deployment:
        """Return the deployment of these apps, the one that was asked for first."""
        return cls({env.name: DeployedAppEnvironment(env, app) for env, app in deployed})

    def _app(self) -> App:
        return next(iter(self.envs.values())).deployed_app

    @property
    def url(self) -> str:
        """The app's page on the platform."""
        return str(self._app().url)

    @property
    def endpoint(self) -> str:
        """Where the app answers."""
        return str(self._app().endpoint)

    def env_repr(self) -> list[tuple[str, str]]:
        """Return rows (label, value) on each environment."""
        return [row for deployed in self.envs.values() for row in deployed.env_repr()]

    def summary_repr(self) -> str:
        """Return one line for each app."""
        return "\n".join(deployed.summary_repr() for deployed in self.envs.values())

    def table_repr(self) -> list[list[tuple[str, str]]]:
        """Return rows (label, value) on each app."""
        return [row for deployed in self.envs.values() for row in deployed.table_repr()]
