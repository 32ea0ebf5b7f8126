"""One call serves an app; the same call again changes nothing, another value changes the value only."""

from __future__ import annotations

import http.client
import json
import threading
import time
from urllib.parse import urlsplit

import pytest
from support import get, get_json, until

VALUE_APP = """
import asyncio, json, os, sys
import flyte, flyte.app
import web

env = flyte.app.AppEnvironment(
    name="value",
    parameters=[flyte.app.Parameter("word", "first"), flyte.app.Parameter("number", 1)],
)

@env.server
def server(word, number):
    web.serve(lambda path: {"word": word, "number": number, "pid": os.getpid()})
"""


@pytest.fixture
def value(project):
    project.write("main.py", VALUE_APP)
    project.write(
        "again.py",
        """
        import json, sys
        import flyte, main
        words = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
        app = flyte.with_servecontext(**words).serve(main.env)
        print(json.dumps({"endpoint": app.endpoint, "revision": app.revision}))
        """,
    )
    return project


def test_a_script_that_ends_leaves_its_app_answering_and_the_same_script_changes_nothing(
    project, home, serve_call
):
    project.write(
        "main.py",
        VALUE_APP
        + f"""
if __name__ == "__main__":
    app = {serve_call}
    print(json.dumps([app.name, app.endpoint, app.revision]))
""",
    )
    first = project.result()
    name, endpoint, _ = first
    assert name == "value"
    assert get_json(endpoint)["word"] == "first"
    pid = home.pid("value")
    assert project.result() == first
    assert home.pid("value") == pid
    assert get_json(endpoint)["pid"] == pid


def test_serving_what_runs_is_quick(value, home):
    value.result("again.py")
    value.write(
        "timed.py",
        """
        import json, time
        import flyte, main
        started = time.perf_counter()
        flyte.serve(main.env)
        print(json.dumps(time.perf_counter() - started))
        """,
    )
    value.result("timed.py")  # the script itself is new in the bundle
    pid = home.pid("value")
    # A wide bound; how quick it is, `make bench` tells.
    assert min(value.result("timed.py") for _ in range(3)) < 3
    assert home.pid("value") == pid


class Hammer:
    """Asks without a pause, once on a lasting connection and once on a new one each time."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.failures: list[object] = []
        self.seen: set[str] = set()
        self.count = 0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(lasting,)) for lasting in (True, False, True)
        ]

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.endpoint)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)

    def _work(self, lasting: bool) -> None:
        connection = self._connect()
        while not self._over.is_set():
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    self.failures.append((answer.status, body))
                else:
                    self.seen.add(json.loads(body)["word"])
            except Exception as error:  # noqa: BLE001 - each is a failed request of a user
                self.failures.append(repr(error))
                connection.close()
            self.count += 1
            if not lasting:
                connection.close()

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        until(lambda: self.count > 20)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)  # requests after the change count as well
        self._over.set()
        for thread in self._threads:
            thread.join(30)


def test_another_value_is_served_at_the_same_endpoint_and_no_request_fails(value, home):
    before = value.result("again.py")
    with Hammer(before["endpoint"]) as hammer:
        for word in ("second", "third"):
            options = {"input_values": {"value": {"word": word}}}
            after = value.result("again.py", json.dumps(options))
            assert after["endpoint"] == before["endpoint"]
            answer = get_json(after["endpoint"])
            assert (answer["word"], answer["number"]) == (word, 1)
    assert hammer.failures == []
    assert hammer.seen == {"first", "second", "third"}
    assert after["revision"] > before["revision"]
    # What was not asked for is as it was declared.
    assert value.result("again.py")["endpoint"] == before["endpoint"]
    assert get_json(before["endpoint"])["word"] == "first"


def test_the_new_code_is_served_when_a_file_changes(value, home):
    endpoint = value.result("again.py")["endpoint"]
    text = (value.folder / "main.py").read_text()
    value.write("main.py", text.replace('{"word": word,', '{"word": word + "!",'))
    assert value.result("again.py")["endpoint"] == endpoint
    assert get_json(endpoint)["word"] == "first!"


def test_serving_brings_a_deactivated_app_back(value, home):
    endpoint = value.result("again.py")["endpoint"]
    assert home.flyte("update", "app", "value", "--deactivate", "--wait").returncode == 0
    assert get(endpoint)[0] == 503
    assert value.result("again.py")["endpoint"] == endpoint
    assert get(endpoint)[0] == 200


def test_projects_and_domains_keep_apps_apart(value, home):
    plain = value.result("again.py")
    options = {"project": "other", "domain": "production"}
    other = value.result("again.py", json.dumps({**options, "input_values": {"value": {"word": "apart"}}}))
    assert other["endpoint"] != plain["endpoint"]
    assert get_json(plain["endpoint"])["word"] == "first"
    assert get_json(other["endpoint"])["word"] == "apart"
    scope = ("--project", "other", "--domain", "production")
    assert home.json("get", "app", "value", *scope)["endpoint"] == other["endpoint"]
    assert home.flyte("delete", "app", "value", *scope).returncode == 0
    assert get(plain["endpoint"])[0] == 200


def test_parameter_values_is_another_name_of_input_values(value):
    served = value.result("again.py", json.dumps({"parameter_values": {"value": {"number": 7}}}))
    assert get_json(served["endpoint"])["number"] == 7


def test_both_names_at_once_are_refused():
    import flyte

    with pytest.raises(TypeError, match="input_values and parameter_values"):
        flyte.with_servecontext(input_values={}, parameter_values={})


def test_variables_are_checked_as_declared_ones_are():
    import flyte
    from flyte.errors import ConfigTypeError

    with pytest.raises(ConfigTypeError, match="got 'TOKEN': <class 'NoneType'>"):
        flyte.with_servecontext(env_vars={"TOKEN": None})
    assert flyte.with_servecontext(env_vars={"COUNT": 3})


@pytest.mark.parametrize(
    ("values", "wrong", "right"),
    [
        ({"vaule": {"word": "x"}}, "vaule", "value"),
        ({"value": {"wrod": "x"}}, "wrod", "word"),
    ],
    ids=["app", "parameter"],
)
@pytest.mark.parametrize("form", ["{}.serve(main.env)", "asyncio.run({}.serve.aio(main.env))"])
def test_an_unknown_name_is_refused_before_anything_is_deployed(value, home, values, wrong, right, form):
    value.result("again.py")
    before = home.app("value")
    call = form.format(f"flyte.with_servecontext(input_values={values!r})")
    failure = value.failure("import asyncio; " + call)
    assert failure["class"] == "ConfigError"
    assert failure["code"] == "config.unknown_name"
    assert f"`{wrong}`" in failure["message"]
    assert failure["hints"] == [f"did you mean `{right}`?"]
    assert home.app("value") == before


def test_a_dry_run_deploys_nothing(project, home):
    project.write(
        "main.py",
        """
        import flyte, flyte.app
        env = flyte.app.AppEnvironment(name="dry", args=["python", "-m", "http.server", "8080"])
        app = flyte.with_servecontext(dry_run=True).serve(env)
        print('"' + app.name + '"')
        flyte.deploy(env, dry_run=True)
        """,
    )
    done = project.run()
    assert done.returncode == 0, done.stderr
    assert "would serve `dry` on port 8080" in done.stderr
    assert "dry" not in home.names()
    assert not home.replicas("dry")


def test_a_change_of_the_port_goes_unnoticed_by_callers(project, home):
    project.write(
        "main.py",
        """
        import sys
        import flyte, flyte.app
        import web
        port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
        program = f"import web; web.serve(lambda path: {port}, {port})"
        env = flyte.app.AppEnvironment(name="moving", port=port, args=["python", "-c", program])
        if __name__ == "__main__":
            print('"' + flyte.serve(env).endpoint + '"')
        """,
    )
    endpoint = project.result()
    assert get(endpoint) == (200, "8080")
    assert project.result("main.py", "9123") == endpoint
    assert get(endpoint) == (200, "9123")
