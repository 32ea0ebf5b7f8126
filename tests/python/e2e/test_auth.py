"""Logging in at a control plane that wants to know who calls: a certified OpenID provider, a real
browser, TLS with an authority of our own, HTTP/2 through nginx, and the local platform behind it.
"""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from guarded import BROWSER, FORMS, Guarded, Proxy
from support import Home, until

FLYTE = Path(sys.executable).with_name("flyte")
PARTS = ("node", "npm", "nginx", "chromium", "openssl", "dbus-run-session", "gnome-keyring-daemon")


@pytest.fixture(scope="module")
def guarded(home: Home) -> Iterator[Guarded]:
    missing = [part for part in PARTS if not shutil.which(part, path=f"{os.environ['PATH']}:/usr/sbin")]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    home.names()  # starts the platform
    guarded = Guarded(home)
    yield guarded
    guarded.close()


@pytest.fixture
def nobody(home: Home, guarded: Guarded) -> Guarded:
    """Nobody is logged in, and nothing was counted."""
    shutil.rmtree(home.path / "credentials", ignore_errors=True)
    guarded.admin("seconds?value=3600")
    guarded.admin("reset")
    return guarded


@pytest.fixture
def ada(home: Home, nobody: Guarded) -> Guarded:
    """Ada has logged in."""
    done = home.flyte("login", **nobody.variables(BROWSER=f"{sys.executable} {FORMS}"))
    assert done.returncode == 0, done.stderr
    nobody.admin("reset")
    return nobody


def kept(home: Home) -> Path:
    """The one file with tokens."""
    (file,) = (home.path / "credentials").glob("*.json")
    return file


def whoami(home: Home, **variables: str) -> Any:
    done = home.flyte("whoami", "--output", "json", **variables)
    return done.returncode, json.loads(done.stdout)


def at_a_terminal(home: Home, *words: str, **variables: str) -> tuple[int, str, str]:
    """Run the command line with a person in front of it."""
    environment = home.environment(**variables)
    environment.pop("CI", None)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [FLYTE, *words], env=environment, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out = process.communicate(timeout=60)[0]
    return process.returncode, out, shown.decode()


def test_a_browser_logs_in_once_for_all_that_follows(home, nobody, tmp_path):
    log = tmp_path / "browser"
    done = home.flyte("login", **nobody.variables(BROWSER_LOG=str(log)))
    assert done.returncode == 0, done.stderr
    assert "ada" in done.stdout and f"open {nobody.endpoint}/auth?" in done.stderr
    until(lambda: log.exists() and log.read_text(), 60, "the browser's last page")
    assert "You are logged in" in log.read_text()
    assert whoami(home, **nobody.variables()) == (
        0,
        {"endpoint": nobody.endpoint, "subject": "ada", "name": "", "username": "", "email": ""},
    )
    assert home.flyte("get", "app", **nobody.variables()).returncode == 0
    assert nobody.grants() == {"authorization_code": 1}
    # After the login no call is refused: the header that the control plane wants is remembered.
    assert {call["who"] for call in nobody.calls("UserInfo")} == {"ada"}
    assert stat.S_IMODE(kept(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept(home).parent.stat().st_mode) == 0o700
    lines = (nobody.folder / "access.log").read_text().splitlines()
    assert all("HTTP/2.0" in line for line in lines if "/flyteidl2." in line)
    done = home.flyte("logout", **nobody.variables())
    assert done.returncode == 0 and "is forgotten" in done.stderr
    assert not list((home.path / "credentials").glob("*.json"))


def test_the_systems_keyring_keeps_the_login(home, nobody, tmp_path):
    """A real one, in a session of its own, unlocked with a password."""
    variables = nobody.variables(BROWSER=f"{sys.executable} {FORMS}", XDG_DATA_HOME=str(tmp_path))
    del variables["FLYTE_ADMIN_DISABLEKEYRING"]
    unlock = "echo -n password | gnome-keyring-daemon --unlock --components=secrets > /dev/null"
    commands = f"{unlock}; set -e; {FLYTE} login; {FLYTE} whoami; {FLYTE} logout; {FLYTE} whoami"
    done = subprocess.run(
        ["dbus-run-session", "--", "bash", "-c", commands],
        env=home.environment(**variables, CI="true"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("ada") == 2 and "is forgotten" in done.stderr
    assert "wants a login" in done.stderr
    assert nobody.grants() == {"authorization_code": 1}
    assert not list((home.path / "credentials").glob("*.json"))
    assert any(tmp_path.rglob("*.keyring"))


def test_without_a_person_nobody_is_asked(home, nobody, tmp_path):
    log = tmp_path / "browser"
    code, told = whoami(home, **nobody.variables(BROWSER_LOG=str(log)))
    assert code == 1 and told["error"]["code"] == "client.unauthenticated"
    assert any("flyte login" in hint for hint in told["error"]["hints"])
    assert not log.exists() and nobody.grants() == {}


def test_a_person_at_a_terminal_is_asked_when_it_is_needed(home, nobody):
    code, out, shown = at_a_terminal(home, "whoami", **nobody.variables())
    assert code == 0, shown
    assert "ada" in out and "to log in at" in shown


def test_processes_that_start_at_once_log_in_once(home, nobody, tmp_path):
    log = tmp_path / "browser"
    variables = nobody.variables(BROWSER_LOG=str(log))
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(at_a_terminal, home, "whoami", **variables) for _ in range(3)]
        outcomes = [run.result() for run in runs]
    assert [code for code, _, _ in outcomes] == [0, 0, 0], outcomes
    assert nobody.grants() == {"authorization_code": 1}
    until(lambda: log.exists() and log.read_text(), 60, "the browser's last page")
    assert log.read_text().count("You are logged in") == 1


def log_in_elsewhere(home: Home, nobody: Guarded) -> tuple[subprocess.Popen[str], str]:
    """Begin a login with a code; the process that waits, and where the code is confirmed."""
    process = subprocess.Popen(
        [FLYTE, "login"],
        env=home.environment(**nobody.variables(FLYTE_AUTH_TYPE="DeviceFlow")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    asked = process.stderr.readline()
    return process, next(word for word in asked.split() if "/device" in word)


def test_a_login_elsewhere_that_is_refused_or_forgotten(home, nobody):
    process, url = log_in_elsewhere(home, nobody)
    subprocess.run([sys.executable, FORMS, url], env={**os.environ, "FORMS_ABORT": "1"}, timeout=60)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "it was refused in the browser" in err, err
    nobody.admin("code-seconds?value=3")
    try:
        process, _ = log_in_elsewhere(home, nobody)
        _, err = process.communicate(timeout=60)
    finally:
        nobody.admin("code-seconds?value=60")
    assert process.returncode == 1 and "nobody confirmed the code in time" in err, err
    assert nobody.grants() == {} and not list((home.path / "credentials").glob("*.json"))


def test_a_browser_elsewhere(home, nobody):
    process, url = log_in_elsewhere(home, nobody)
    browser = subprocess.run(
        [sys.executable, BROWSER, url], env={**os.environ, "BROWSER_PERSON": "bob"}, timeout=60
    )
    assert browser.returncode == 0
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "bob" in out
    # The same login serves the other way of logging in, and is renewed in the same way.
    assert whoami(home, **nobody.variables())[1]["subject"] == "bob"


def test_a_program_with_a_secret(home, nobody):
    with ThreadPoolExecutor(5) as pool:
        runs = [pool.submit(whoami, home, **nobody.robot()) for _ in range(5)]
        outcomes = [run.result() for run in runs]
    assert [(code, told.get("subject")) for code, told in outcomes] == [(0, "robot")] * 5, outcomes
    assert nobody.grants() == {"client_credentials": 1}


def test_a_wrong_secret_is_told_and_not_shown(home, nobody):
    done = home.flyte("whoami", **{**nobody.robot(), "ROBOT": "s3cret-and-wrong"}, FLYTE_PLATFORM_LOG="trace")
    assert done.returncode == 1
    assert "invalid_client" in done.stderr and f"{nobody.endpoint}/token" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert len(nobody.calls("UserInfo")) == 0


@pytest.fixture
def by_key(project, nobody):
    """Asks for an app by nothing but an API key."""
    project.write(
        "main.py",
        """
        import json, os
        import flyte
        from flyte import errors
        from flyte.remote import App
        flyte.init_from_api_key(project="local", domain="development",
                                ca_cert_file_path=os.environ["FLYTE_ADMIN_CACERTFILEPATH"])
        try:
            App.get("none-such")
        except errors.NotFoundError as error:
            print(json.dumps(str(error)))
        """,
    )

    def run(client: str, secret: str) -> tuple[str, Any]:
        key = base64.b64encode(f"localhost:{nobody.port}:{client}:{secret}:".encode()).decode()
        variables = nobody.variables(FLYTE_API_KEY=key)
        del variables["FLYTE_ADMIN_ENDPOINT"]
        return key, project.run(**variables)

    return run


def test_an_api_key_is_all_that_is_needed(nobody, by_key):
    key, done = by_key("machine", "s3cret/of+the=machine")
    assert done.returncode == 0 and "none-such" in done.stdout, done.stderr
    assert nobody.grants() == {"client_credentials": 1}
    assert [call["who"] for call in nobody.calls("Get")] == ["machine"]
    assert key not in done.stdout + done.stderr


def test_an_api_key_that_is_refused_is_not_shown(by_key):
    key, done = by_key("robot", "robot%3As3cret/+")
    # A colon cannot stand in a secret of this form; the provider says that this one is not known.
    assert "invalid_client" in done.stderr and "robot%3As3cret" not in done.stderr
    assert key not in done.stderr


def test_a_program_that_prints_a_token(home, ada, tmp_path):
    token = json.loads(kept(home).read_text())["access_token"]
    counted = tmp_path / "runs"
    script = tmp_path / "token"
    script.write_text(f"#!/bin/sh\necho run >> {counted}\ncat {tmp_path}/current\n")
    script.chmod(0o755)
    (tmp_path / "current").write_text(token + "\n")
    variables = ada.variables(FLYTE_AUTH_TYPE="ExternalCommand", FLYTE_AUTH_COMMAND=str(script))
    # This control plane wants the token under a name of its own, which such a program cannot know.
    code, told = whoami(home, **variables)
    assert code == 0, told
    assert told["subject"] == "ada" and counted.read_text().count("run") == 1
    (tmp_path / "current").write_text("worthless\n")
    code, told = whoami(home, **variables)
    assert code == 1 and told["error"]["code"] == "client.unauthenticated"
    assert counted.read_text().count("run") == 3  # once, and once more after the refusal
    assert "worthless" not in json.dumps(told)


def test_headers_of_the_callers_own(project, home, ada):
    token = json.loads(kept(home).read_text())["access_token"]
    project.write(
        "main.py",
        """
        import json, os
        import flyte
        from flyte import errors
        from flyte.remote import App, auth_metadata

        flyte.init_passthrough(os.environ["FLYTE_ADMIN_ENDPOINT"], project="local", domain="development")

        def attempt():
            try:
                App.get("none-such")
            except errors.Error as error:
                return error.code

        with auth_metadata(("flyte-authorization", "Bearer " + os.environ["TOKEN"])):
            inside = attempt()
        with auth_metadata(("flyte-authorization", "Bearer other")):
            other = attempt()
        print(json.dumps([inside, other, attempt()]))
        """,
    )
    outcome = project.result(TOKEN=token, **ada.variables())
    assert outcome == ["app.not_found", "client.unauthenticated", "client.unauthenticated"]
    assert ada.grants() == {}


def test_a_token_is_renewed_before_it_ends(home, ada):
    file = kept(home)
    tokens = json.loads(file.read_text())
    tokens["expires_at"] = int(time.time()) + 30
    file.write_text(json.dumps(tokens))
    assert whoami(home, **ada.variables())[1]["subject"] == "ada"
    assert ada.grants() == {"refresh_token": 1}
    assert [call["who"] for call in ada.calls("UserInfo")] == ["ada"]
    renewed = json.loads(file.read_text())
    assert renewed["access_token"] != tokens["access_token"] and renewed["refresh_token"]


def test_a_token_that_is_refused_is_renewed_once(home, ada):
    whoami(home, **ada.variables())
    ada.admin("revoke")
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(whoami, home, **ada.variables()) for _ in range(4)]
        assert [run.result()[1]["subject"] for run in runs] == ["ada"] * 4
    assert ada.grants() == {"refresh_token": 1}


def test_a_login_that_was_taken_away_is_forgotten(home, ada):
    whoami(home, **ada.variables())
    ada.admin("revoke-all")
    code, told = whoami(home, **ada.variables())
    assert code == 1 and told["error"]["code"] == "client.unauthenticated"
    assert not list((home.path / "credentials").glob("*.json"))


def test_a_provider_that_is_away_costs_no_login(home, ada):
    """Only a refusal of the provider's means that a login is over."""
    before = kept(home).read_text()
    tokens = json.loads(before)
    tokens["expires_at"] = int(time.time()) - 5
    kept(home).write_text(json.dumps(tokens))
    broken = ada.variables(
        FLYTE_ADMIN_HTTPPROXYURL="http://127.0.0.1:1", FLYTE_ADMIN_ENDPOINT="https://h.invalid"
    )
    shutil.copy(kept(home), kept(home).with_suffix(".kept"))
    code, told = whoami(home, **broken)
    assert code == 1 and told["error"]["code"] == "client.unavailable", told
    assert kept(home).exists()
    assert whoami(home, **ada.variables())[1]["subject"] == "ada"


@pytest.fixture
def outlasting(project, tmp_path):
    """Activates an app that takes longer to come up than a token lasts."""
    slow = tmp_path / "slow"
    project.write(
        "local.py",
        f"""
        import flyte, flyte.app
        busy = "import time; t = time.time() + 4\\nwhile time.time() < t: pass"
        script = "if test -e {slow}; then python -c '" + busy + "'; fi; exec python -m http.server 8080"
        env = flyte.app.AppEnvironment(name="outlasting", args=["sh", "-c", script])
        if __name__ == "__main__":
            flyte.serve(env).deactivate(wait=True)
        """,
    )
    assert project.run("local.py").returncode == 0
    slow.touch()
    project.write(
        "main.py",
        """
        import json, time
        from flyte.remote import App
        app = App.get("outlasting")
        started = time.monotonic()
        app.activate(wait=True)
        print(json.dumps([app.is_active(), time.monotonic() - started]))
        """,
    )
    return lambda **variables: project.result("main.py", **variables)


def test_a_token_may_end_while_an_app_is_waited_for(nobody, outlasting):
    nobody.admin("seconds?value=3")
    is_active, seconds = outlasting(**nobody.robot())
    assert is_active and seconds > 3
    watches = nobody.calls("Watch")
    assert [call["who"] for call in watches] == ["robot"] * len(watches) and len(watches) >= 2
    assert len({call["id"] for call in watches}) == 1
    assert nobody.grants()["client_credentials"] >= 2
    assert [call["who"] for call in nobody.calls("Update")] == ["robot"]


def test_a_persons_token_may_end_too(home, ada, outlasting):
    """It is renewed without her, and with what was renewed before."""
    file = kept(home)
    tokens = json.loads(file.read_text())
    tokens["expires_at"] = int(time.time()) - 1  # the first one of three seconds comes at once
    file.write_text(json.dumps(tokens))
    ada.admin("seconds?value=3")
    is_active, seconds = outlasting(**ada.variables(BROWSER="false"))
    assert is_active and seconds > 3
    watches = ada.calls("Watch")
    assert [call["who"] for call in watches] == ["ada"] * len(watches) and len(watches) >= 2
    grants = ada.grants()
    assert grants.keys() == {"refresh_token"} and grants["refresh_token"] >= 2, grants


def test_nothing_but_a_refusal_leads_to_a_login(home, nobody, tmp_path):
    log = tmp_path / "browser"
    for words, code in [
        (("get", "app", "none-such"), "app.not_found"),
        (("get", "logs", "none-such"), "app.not_found"),
    ]:
        done = home.flyte(*words, "--output", "json", **nobody.robot(BROWSER_LOG=str(log)))
        assert json.loads(done.stdout)["error"]["code"] == code
    assert nobody.grants() == {"client_credentials": 1} and not log.exists()


def test_a_server_that_cannot_be_believed(home, nobody):
    variables = nobody.robot()
    del variables["FLYTE_ADMIN_CACERTFILEPATH"]
    done = home.flyte("whoami", **variables)
    assert done.returncode == 1 and "certificate" in done.stderr.lower()
    assert "admin.caCertFilePath" in done.stderr
    assert nobody.calls("UserInfo") == []
    done = home.flyte("whoami", **variables, FLYTE_ADMIN_INSECURESKIPVERIFY="true")
    assert done.returncode == 0 and "robot" in done.stdout
    assert "certificates are not checked" in done.stderr
    done = home.flyte("whoami", **{**nobody.robot(), "FLYTE_ADMIN_CACERTFILEPATH": "/no/such.pem"})
    assert done.returncode == 2 and "/no/such.pem" in done.stderr


def test_an_endpoint_may_have_a_path(home, nobody):
    done = home.flyte("whoami", **{**nobody.robot(), "FLYTE_ADMIN_ENDPOINT": f"{nobody.endpoint}/below"})
    assert done.returncode == 0 and "robot" in done.stdout, done.stderr


def test_a_proxy_that_the_environment_names_is_used(home, nobody):
    """A name that only the proxy can find; what is on this machine is not looked for there."""
    with Proxy() as proxy:
        variables = nobody.robot(HTTPS_PROXY=proxy.url)
        assert home.flyte("whoami", **variables).returncode == 0
        assert proxy.asked == []
        variables["FLYTE_ADMIN_ENDPOINT"] = f"https://flyte.test:{nobody.port}"
        done = home.flyte("whoami", **variables)
        assert done.returncode == 0 and "robot" in done.stdout, done.stderr
        assert set(proxy.asked) == {f"flyte.test:{nobody.port}"}
        done = home.flyte("whoami", **{**variables, "HTTPS_PROXY": "http://user:hunter2@[::"})
        assert done.returncode == 2 and "HTTPS_PROXY" in done.stderr and "hunter2" not in done.stderr
