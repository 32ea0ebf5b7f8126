"""Parameter and the values that are looked up later."""

from __future__ import annotations

import pytest

from flyte.app import AppEndpoint, ArtifactValue, Parameter, RunOutput
from flyte.io import Dir, File


def test_defaults():
    parameter = Parameter("p")
    assert (parameter.value, parameter.type, parameter.env_var, parameter.mount) == (None, None, None, None)
    assert parameter.download is True and parameter.ignore_patterns == []
    assert Parameter(name=None, value="x").name == "i0"


@pytest.mark.parametrize(
    "value",
    [
        "text",
        1,
        0.5,
        True,
        None,
        File("s3://b/f"),
        Dir("s3://b/d"),
        RunOutput(type="file", run_name="r"),
        ArtifactValue(name="a"),
        AppEndpoint(app_name="a"),
    ],
)
def test_accepted_values_stay_as_they_are(value):
    assert Parameter("p", value).value is value


@pytest.mark.parametrize("value", [object(), b"x", ["x"], {"a": 1}])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match="Expected value to be of type"):
        Parameter("p", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_refused(value):
    with pytest.raises(ValueError, match="finite"):
        Parameter("p", value)


@pytest.mark.parametrize("name", ["A", "_PRIVATE", "VAR_123", "lower"])
def test_env_var_names(name):
    assert Parameter("p", "v", env_var=name).env_var == name


@pytest.mark.parametrize("name", ["1A", "A-B", "", "A B", "A\n"])
def test_bad_env_var_names(name):
    with pytest.raises(ValueError, match="not a valid environment name"):
        Parameter("p", "v", env_var=name)


def test_types_must_fit():
    assert Parameter("p", "s3://b/f", type="file").type == "file"
    assert Parameter("p", "s3://b/f", type=File).type == "file"
    for value, kind in [(File("f"), "string"), ("x", "app_endpoint"), (1, "app_endpoint")]:
        with pytest.raises(ValueError, match="does not fit"):
            Parameter("p", value, type=kind)
    with pytest.raises(ValueError, match="type must be one of"):
        Parameter("p", "x", type="nope")
    with pytest.raises(TypeError, match="mount"):
        Parameter("p", "x", mount=1)
    with pytest.raises(TypeError, match="name of a parameter"):
        Parameter("", "x")


@pytest.mark.parametrize(
    "value",
    [
        RunOutput(type="file", run_name="r"),
        RunOutput(type="directory", task_name="t", task_auto_version="latest", getter=(0, "key", 2)),
        ArtifactValue(name="a", version="v", project="p", domain="d", type="file"),
        AppEndpoint(app_name="a", public=True),
    ],
)
def test_json_round_trip(value):
    assert type(value).model_validate_json(value.model_dump_json()) == value


def test_json_of_an_endpoint():
    assert AppEndpoint(app_name="a").model_dump_json() == '{"type":"string","app_name":"a","public":false}'


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (str, "string"),
        (File, "file"),
        (File[bytes], "file"),
        (Dir, "directory"),
        (AppEndpoint, "app_endpoint"),
    ],
)
def test_classes_name_types(given, kind):
    assert RunOutput(type=given, run_name="r").type == kind


def test_looked_up_values_are_checked():
    assert RunOutput(type="string").getter == (0,)
    with pytest.raises(ValueError, match="type must be one of"):
        RunOutput(type="nope")
    with pytest.raises(ValueError, match="task_auto_version"):
        RunOutput(type="file", task_auto_version="newest")
    with pytest.raises(ValueError, match="file or directory"):
        ArtifactValue(name="a", type="string")
    with pytest.raises(ValueError, match="always string"):
        AppEndpoint(app_name="a", type="file")
    for make in (lambda: RunOutput(type="file", nope=1), lambda: AppEndpoint(app_name="a", nope=1)):
        with pytest.raises(TypeError, match="nope"):
            make()
    with pytest.raises(ValueError, match="JSON object"):
        AppEndpoint.model_validate_json("[]")


def test_artifact_records_what_was_found():
    value = ArtifactValue(name="a")
    assert value.resolved_version_id is None and "resolved" not in value.model_dump_json()
    value.resolved_version_id = "v1"
    assert value == ArtifactValue(name="a")
