"""Exceptions: their built-in bases, their text, and that they survive pickling."""

from __future__ import annotations

import builtins
import copy
import pickle

import pytest

from flyte import errors

BASES = {
    errors.Error: Exception,
    errors.ConfigError: ValueError,
    errors.ConfigTypeError: TypeError,
    errors.ConfigPathError: FileNotFoundError,
    errors.ConfigFolderError: NotADirectoryError,
    errors.UnsupportedError: NotImplementedError,
    errors.NotFoundError: LookupError,
    errors.ConflictError: Exception,
    errors.AuthError: PermissionError,
    errors.BuildError: Exception,
    errors.AppError: RuntimeError,
    errors.UnavailableError: ConnectionError,
    errors.TimeoutError: builtins.TimeoutError,
    errors.InternalError: Exception,
}


@pytest.mark.parametrize("kind", BASES)
def test_positional_arguments_text_and_pickle(kind):
    # Two or more positional arguments are what OSError would take for errno and text.
    error = kind("it broke", "app.failed", ("try again",), ("disk full",), True, "r-1", ("line 1", "line 2"))
    assert isinstance(error, BASES[kind]) and isinstance(error, errors.Error)
    assert str(error) == (
        "it broke\nCaused by: disk full\nlast log lines:\n  line 1\n  line 2\nhint: try again"
        "\n`flyte explain app.failed` tells more"
    )
    assert error.args == ("it broke",)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert (twin.code, twin.retryable, twin.request_id) == ("app.failed", True, "r-1")
        assert (twin.hints, twin.causes, twin.log_tail) == (error.hints, error.causes, error.log_tail)


@pytest.mark.parametrize("kind", BASES)
def test_a_message_is_enough(kind):
    error = kind("plain")
    assert str(error) == "plain"
    assert error.hints == error.causes == error.log_tail == ()
    assert error.retryable is False and error.request_id is None
    assert error.code == "internal" or "." in error.code


def test_os_error_bases_have_no_errno():
    assert errors.AuthError("no", "client.denied").errno is None
    assert errors.TimeoutError("late", "app.timeout").errno is None


def test_notes_survive_pickling():
    error = errors.AppError("x")
    error.where = "replica 1"
    assert pickle.loads(pickle.dumps(error)).where == "replica 1"


def test_names_of_the_pypi_package_catch_the_same_failures():
    assert errors.ImageBuildError is errors.CodeBundleError is errors.BuildError
    assert errors.DeploymentError is errors.ParameterMaterializationError is errors.AppError
    assert errors.InitializationError is errors.ConfigError
