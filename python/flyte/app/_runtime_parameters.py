"""`get_parameter`: what an app reads, inside the replica, of what it was given."""

from __future__ import annotations

import functools
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The second name is what clusters set; shells cannot pass it on, so it is only looked at last.
_PATH_VARIABLES = ("FLYTE_PARAMETERS_FILE", "flyte-parameters.json")


@functools.cache
def _load_parameters() -> dict[str, Any]:
    for variable in _PATH_VARIABLES:
        path = os.environ.get(variable)
        if path:
            import json

            with open(path, encoding="utf-8") as file:
                return json.load(file)  # type: ignore[no-any-return]
    raise ValueError("Parameters are not mounted: this process was not started by flyte with parameters")


def get_parameter(name: str) -> Any:
    """Return the value of a parameter of the app that this code runs in.

    Text, numbers and booleans keep their type; files and folders are local paths; the endpoint of
    another app is its URL.

    Args:
        name: name that the `Parameter` was declared with.

    Raises:
        ValueError: this process was not started with parameters.
        KeyError: no parameter has this name.

    Example:
        >>> model_path = get_parameter("model")  # doctest: +SKIP
    """
    parameters = _load_parameters()
    if name not in parameters:
        raise KeyError(f"no parameter is called `{name}`, only {sorted(parameters)}")
    return parameters[name]
