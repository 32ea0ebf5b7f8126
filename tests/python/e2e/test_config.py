"""Settings: files, variables and arguments, which of them wins, and what is said about wrong ones."""

from __future__ import annotations

import base64
import json

import pytest


@pytest.fixture
def shown(home, project):
    """`flyte get config` as key -> (value, source)."""

    def show(*words: str, **variables: str):
        done = home.flyte("get", "config", "--output", "json", *words, cwd=project.folder, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}

    return show


def test_each_value_tells_where_it_comes_from(project, shown):
    file = project.write(
        ".flyte/config.yaml",
        """
        admin:
          endpoint: dns:///acme.example.com
          clientId: robot
          clientSecretEnvVar: MY_SECRET
        task: {project: of-file, domain: of-file}
        image: {builder: local, base: "python:3.12-slim", image_refs: {default: "x:1"}}
        """,
    )
    variables = {"FLYTE_TASK_DOMAIN": "of-variable", "MY_SECRET": "hunter2"}
    found = shown("-p", "of-option", **variables)
    source = str(file)
    assert found == {
        "admin.endpoint": ("dns:///acme.example.com", source),
        "task.project": ("of-option", "argument"),
        "task.domain": ("of-variable", "$FLYTE_TASK_DOMAIN"),
        "task.org": ("acme", "endpoint"),
        "admin.clientId": ("robot", source),
        "admin.clientSecretEnvVar": ("MY_SECRET", source),
        "image.builder": ("local", source),
        "image.image_refs": ("default=x:1", source),
        "image.base": ("python:3.12-slim", source),
    }
    table = project.home.flyte("get", "config", cwd=project.folder, **variables)
    assert table.stdout.splitlines()[0].split() == ["KEY", "VALUE", "SOURCE"]
    assert "hunter2" not in table.stdout + table.stderr
    assert "https://acme.example.com" in table.stderr


def test_variables_count_without_a_file_and_mean_what_they_say(shown):
    found = shown(
        FLYTE_ADMIN_ENDPOINT="localhost:8090", FLYTE_ADMIN_INSECURE="false", FLYTE_AUTH_TYPE="headless"
    )
    assert found["admin.insecure"] == ("false", "$FLYTE_ADMIN_INSECURE")
    assert found["admin.authType"] == ("headless", "$FLYTE_AUTH_TYPE")
    assert "task.org" not in found
    assert shown()["task.project"] == ("local", "default")


@pytest.mark.parametrize(
    "text, told, hint",
    [
        ("admin:\n  endpiont: x\n", "admin.endpiont", "did you mean `admin.endpoint`?"),
        ("tsak:\n  project: x\nadmin: {}\n", "tsak", "did you mean `task`?"),
        ("task: [a]\n", "`task` is a list; a mapping is wanted", ""),
        ("task:\n  project: 12\n", "`task.project` is a number", ""),
        ("admin:\n  insecure: maybe\n", "`admin.insecure` is text", ""),
        ("admin: {\n", "is not valid YAML", ""),
        ("admin:\n  endpoint: ftp://x\n", "ftp://x", ""),
        ("admin:\n  authType: Pcke\n", "`Pcke`", "did you mean `Pkce`?"),
        ("admin:\n  authType: ClientSecret\n", "needs `admin.clientId`", ""),
    ],
)
def test_a_wrong_file_is_told_by_name(project, home, text, told, hint):
    project.write("wrong.yaml", text)
    done = home.flyte("get", "config", "-c", "wrong.yaml", "--output", "json", cwd=project.folder)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "config.invalid" and told in error["message"]
    assert not hint or error["hints"] == [hint]


def test_a_wrong_variable_is_told_by_name(home):
    done = home.flyte("get", "config", FLYTE_ADMIN_INSECURE="perhaps")
    assert done.returncode == 2
    assert "`FLYTE_ADMIN_INSECURE` is `perhaps`; true or false is wanted" in done.stderr


def test_a_file_is_written_and_not_overwritten(project, home, shown):
    words = ("create", "config", "--endpoint", "https://flyte.example.com", "-p", "007", "-d", "no")
    done = home.flyte(*words, "--auth-type", "DeviceFlow", cwd=project.folder)
    assert done.returncode == 0 and done.stdout == ".flyte/config.yaml\n", done.stderr
    found = {key: value for key, (value, _) in shown().items()}
    assert found == {
        "admin.endpoint": "https://flyte.example.com",
        "admin.authType": "DeviceFlow",
        "task.org": "flyte",
        "task.project": "007",
        "task.domain": "no",
    }
    again = home.flyte(*words, cwd=project.folder)
    assert again.returncode == 2 and "--force" in again.stderr
    assert home.flyte(*words, "--force", cwd=project.folder).returncode == 0
    wrong = home.flyte(
        "create", "config", "--endpoint", "gopher://x", "--file", "other.yaml", cwd=project.folder
    )
    assert wrong.returncode == 2 and not (project.folder / "other.yaml").exists()


INIT = """
import asyncio, json
import flyte
from flyte import errors
from flyte.remote import App

def scope():
    return [flyte.current_project(), flyte.current_domain()]

def attempt(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except errors.Error as error:
        return [error.code, str(error)]
    return scope()

def reached():
    return attempt(App.get, "x")[1]
"""


def told_by(project, code: str, **variables: str):
    project.write("main.py", INIT + code)
    return project.result(**variables)


def test_an_api_key_decides_where_calls_go(project):
    key = base64.b64encode(b"127.0.0.1:1:me:hunter2:acme").decode()
    code = "print(json.dumps([attempt(flyte.init_from_api_key, project='p', domain='d'), reached()]))"
    scope, reached = told_by(project, code, FLYTE_API_KEY=key)
    assert scope == ["p", "d"]
    assert "https://127.0.0.1:1" in reached and "hunter2" not in reached
    missing, wrong = told_by(
        project,
        "print(json.dumps([attempt(flyte.init_from_api_key), attempt(flyte.init_from_api_key, 'aGVsbG8=')]))",
    )
    assert missing[0] == "config.invalid" and "FLYTE_API_KEY" in missing[1]
    assert wrong[0] == "config.invalid" and "client secret" in wrong[1]
    assert told_by(
        project, f"asyncio.run(flyte.init_from_api_key.aio('{key}', project='a')); print(json.dumps(scope()))"
    ) == ["a", ""]


def test_in_a_cluster_the_variables_say_where(project):
    code = "told = flyte.init_in_cluster(); print(json.dumps([told, scope(), reached()]))"
    variables = {
        "_U_EP_OVERRIDE": "localhost:1",
        "FLYTE_INTERNAL_EXECUTION_PROJECT": "p",
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": "d",
    }
    told, scope, reached = told_by(project, code, **variables)
    assert told == {"endpoint": "localhost:1", "insecure": True} and scope == ["p", "d"]
    assert "http://localhost:1" in reached
    key = base64.b64encode(b"127.0.0.1:1:me:hunter2:").decode()
    told, _, reached = told_by(project, code, EAGER_API_KEY=key, **variables)
    assert told == {} and "https://127.0.0.1:1" in reached


def test_passing_on_needs_an_endpoint(project):
    missing, scope = told_by(
        project,
        "print(json.dumps([attempt(flyte.init_passthrough), "
        "attempt(flyte.init_passthrough, 'http://localhost:1', project='p', domain='d')]))",
    )
    assert missing[0] == "config.invalid" and "_U_EP_OVERRIDE" in missing[1]
    assert scope == ["p", "d"]


def test_arguments_are_checked(project):
    told = told_by(
        project,
        "print(json.dumps([attempt(flyte.init, auth_type='Oauth'), "
        "attempt(flyte.init, auth_type='ExternalCommand'), "
        "attempt(flyte.init, command='one text'), "
        "attempt(flyte.init, endpoint='http://u:p@h')]))",
    )
    assert [code for code, _ in told] == ["config.invalid"] * 4
    for (_, text), wanted in zip(told, ["Oauth", "admin.command", "list of words", "u:p@h"], strict=True):
        assert wanted in text


def test_the_local_platform_knows_no_users(home):
    for word in ["whoami", "login", "logout"]:
        done = home.flyte(word)
        assert done.returncode == 2 and "--endpoint" in done.stderr
