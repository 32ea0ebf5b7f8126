"""Serve Python apps: declare an `AppEnvironment`, then call `flyte.serve`.

Example:
    >>> import flyte, flyte.app
    >>> env = flyte.app.AppEnvironment(name="hello", args="python -m http.server 8080")
    >>> app = flyte.serve(env)          # doctest: +SKIP
    >>> app.url                         # doctest: +SKIP
    'http://localhost:8080'

Names are imported when they are first used; `import flyte` opens no file and no socket.
"""

from __future__ import annotations

import atexit as _atexit
import sys as _sys

from ._lazy import hooks as _hooks


def _end() -> None:
    if native := _sys.modules.get("flyte._native"):
        native.shutdown()


# Exit handlers run in the reverse order, so what a program registers after its import of this package can
# still stop its apps.
_atexit.register(_end)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import app as app
    from . import errors as errors
    from . import io as io
    from . import remote as remote
    from ._build import ImageBuild as ImageBuild
    from ._build import ImageCache as ImageCache
    from ._build import build as build
    from ._build import build_images as build_images
    from ._context import ctx as ctx
    from ._environment import Environment as Environment
    from ._image import Image as Image
    from ._init import current_domain as current_domain
    from ._init import current_project as current_project
    from ._init import init as init
    from ._init import init_from_api_key as init_from_api_key
    from ._init import init_from_config as init_from_config
    from ._init import init_in_cluster as init_in_cluster
    from ._init import init_passthrough as init_passthrough
    from ._logger import logger as logger
    from ._pod import PodTemplate as PodTemplate
    from ._resources import AMD_GPU as AMD_GPU
    from ._resources import GPU as GPU
    from ._resources import HABANA_GAUDI as HABANA_GAUDI
    from ._resources import TPU as TPU
    from ._resources import Device as Device
    from ._resources import Neuron as Neuron
    from ._resources import Resources as Resources
    from ._secret import Secret as Secret
    from ._secret import SecretRequest as SecretRequest
    from ._serving import deploy as deploy
    from ._serving import serve as serve
    from ._serving import with_servecontext as with_servecontext
    from ._version import __version__ as __version__
    from ._version import version as version

_NAMES = {
    "AMD_GPU": "flyte._resources",
    "Device": "flyte._resources",
    "Environment": "flyte._environment",
    "GPU": "flyte._resources",
    "HABANA_GAUDI": "flyte._resources",
    "Image": "flyte._image",
    "ImageBuild": "flyte._build",
    "ImageCache": "flyte._build",
    "Neuron": "flyte._resources",
    "PodTemplate": "flyte._pod",
    "Resources": "flyte._resources",
    "Secret": "flyte._secret",
    "SecretRequest": "flyte._secret",
    "TPU": "flyte._resources",
    "__version__": "flyte._version",
    "build": "flyte._build",
    "build_images": "flyte._build",
    "ctx": "flyte._context",
    "current_domain": "flyte._init",
    "current_project": "flyte._init",
    "deploy": "flyte._serving",
    "init": "flyte._init",
    "init_from_api_key": "flyte._init",
    "init_from_config": "flyte._init",
    "init_in_cluster": "flyte._init",
    "init_passthrough": "flyte._init",
    "logger": "flyte._logger",
    "serve": "flyte._serving",
    "version": "flyte._version",
    "with_servecontext": "flyte._serving",
}

# What the PyPI package `flyte` has for tasks; named here so that the refusal can say so.
_TASK_NAMES = frozenset(
    """
    AsyncFunctionTaskTemplate Backoff BaseCheckpoint Cache CachePolicy CacheRequest Checkpoint
    ConditionWebhook Cron Documentation FixedRate Link OnArtifact Retry RetryStrategy ReusePolicy
    TaskEnvironment TaskTemplate Timeout TimeoutType Trigger TriggerTime TriggeredArtifact
    TriggeredPartition ai clustered custom_context durable extend extras get_custom_context git
    group latest_checkpoint load_interactive_ctx map new_condition prefetch report rerun run
    run_python_script sandbox trace with_runcontext
    """.split()
)


def _refuse(name: str) -> BaseException | None:
    if name not in _TASK_NAMES:
        return None
    from .errors import UnsupportedError

    return UnsupportedError(
        f"`flyte.{name}` is about tasks, and flyte-rs serves apps only; the PyPI package `flyte` runs tasks",
        hints=("install the PyPI package `flyte` in an environment of its own to run tasks",),
    )


# Hidden from type checkers, which would take every misspelled name for one that exists.
if not TYPE_CHECKING:
    __getattr__, __dir__ = _hooks("flyte", _NAMES, ("app", "errors", "io", "remote"), _refuse)

__all__ = [
    "AMD_GPU",
    "GPU",
    "HABANA_GAUDI",
    "TPU",
    "Device",
    "Environment",
    "Image",
    "ImageBuild",
    "ImageCache",
    "Neuron",
    "PodTemplate",
    "Resources",
    "Secret",
    "SecretRequest",
    "__version__",
    "app",
    "build",
    "build_images",
    "ctx",
    "current_domain",
    "current_project",
    "deploy",
    "errors",
    "init",
    "init_from_api_key",
    "init_from_config",
    "init_in_cluster",
    "init_passthrough",
    "io",
    "logger",
    "remote",
    "serve",
    "version",
    "with_servecontext",
]
