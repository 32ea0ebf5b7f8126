"""Kubernetes pod templates, for clusters. The local platform starts processes and has no pods."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ._mistake import mistake, wrong_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any, NoReturn


@dataclass(frozen=True)
class PodTemplate:
    """The pod that a replica runs in.

    Args:
        pod_spec: a `kubernetes.client.V1PodSpec`, or `None` for an empty one.
        primary_container_name: the container that runs the app; clusters expect `"app"` for apps.
        labels: labels of the pod.
        annotations: annotations of the pod.
    """

    pod_spec: Any = None
    primary_container_name: str = "primary"
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    def _document(self) -> str:
        """Return the pod spec as JSON, in the words of Kubernetes."""
        import json

        if self.pod_spec is None:
            return "{}"
        if isinstance(self.pod_spec, dict):
            return json.dumps(self.pod_spec)
        # Whoever made a V1PodSpec has it.
        from kubernetes.client import ApiClient  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return json.dumps(ApiClient().sanitize_for_serialization(self.pod_spec))

    @classmethod
    def from_spec(
        cls,
        pod_spec: Any,
        *,
        primary_container_name: str | None = None,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> PodTemplate:
        """Return a template around a pod spec.

        The primary container is the only one, unless `primary_container_name` names it.

        Raises:
            ValueError: several containers and no name, or a name that no container has.
        """
        names = [container.name for container in pod_spec.containers or ()]
        if primary_container_name is None:
            if len(names) != 1:
                raise mistake(
                    f"the primary container is ambiguous among {names}; pass `primary_container_name`",
                    "the primary container is the one that the app runs in",
                )
            primary_container_name = names[0]
        elif primary_container_name not in names:
            raise mistake(f"no container is called `{primary_container_name}`, only {names}")
        return cls(pod_spec, primary_container_name, labels, annotations)

    def with_termination_grace_period(self, termination_grace_period: int | timedelta) -> PodTemplate:
        """Return a copy whose pods get this long to stop.

        Args:
            termination_grace_period: seconds, or a `timedelta` (rounded up to seconds).

        Raises:
            TypeError: neither an int nor a timedelta.
            ValueError: negative.
            ModuleNotFoundError: there is no pod spec yet and `kubernetes` is not installed.
        """
        import copy

        seconds = _seconds(termination_grace_period)
        spec = copy.deepcopy(self.pod_spec)
        if spec is None:
            from kubernetes.client import V1PodSpec  # type: ignore[import-not-found, unused-ignore]

            spec = V1PodSpec(containers=[])
        spec.termination_grace_period_seconds = seconds
        return replace(self, pod_spec=spec)

    def allow_fuse(self, privileged: bool = False) -> NoReturn:
        """Refused: flyte-rs has no preset for FUSE; set the security context in `pod_spec`."""
        raise _no_preset("allow_fuse")

    def allow_nested_sandboxing(self) -> NoReturn:
        """Refused: flyte-rs has no preset for sandboxes; set the security context in `pod_spec`."""
        raise _no_preset("allow_nested_sandboxing")


def _no_preset(method: str) -> Exception:
    from .errors import UnsupportedError

    return UnsupportedError(
        f"`PodTemplate.{method}` is not available in flyte-rs",
        hints=("set the security context, devices and annotations in `pod_spec` yourself",),
    )


def _seconds(period: object) -> int:
    from datetime import timedelta

    if isinstance(period, timedelta):
        period = -int(-period.total_seconds() // 1)
    if not isinstance(period, int) or isinstance(period, bool):
        raise wrong_type(
            f"Expected termination_grace_period to be of type int or timedelta, got {type(period)}"
        )
    if period < 0:
        raise mistake(f"termination_grace_period must be non-negative, got {period} seconds")
    return period
