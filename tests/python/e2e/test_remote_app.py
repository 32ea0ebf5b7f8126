"""`flyte.remote.App` over apps that exist: found, listed, replaced, deleted; nothing unknown is lost."""

from __future__ import annotations

import urllib.request

import pytest
from support import get_json, until


@pytest.fixture(scope="module")
def apps(home, tmp_path_factory):
    """Three apps, made in the order of their names; the third is at rest."""
    from support import WEB, Project

    project = Project(tmp_path_factory.mktemp("remote"), home)
    project.write("web.py", WEB)
    project.write(
        "main.py",
        """
        import flyte, flyte.app, web, os

        def server():
            web.serve(lambda path: {"word": os.environ["WORD"]})

        def declare(name):
            env = flyte.app.AppEnvironment(name=name, env_vars={"WORD": "first"})
            env.server(server)
            return env

        first, second, third = map(declare, ["c-first", "b-second", "a-third"])

        if __name__ == "__main__":
            for env in (first, second, third):
                app = flyte.serve(env)
            app.deactivate(wait=True)
        """,
    )
    done = project.run()
    assert done.returncode == 0, done.stderr
    return project


def names(found) -> list[str]:
    return [app.name for app in found]


def test_apps_are_sorted_limited_and_told_by_state(apps, call):
    from flyte.remote import App

    assert names(call(App.listall)) == ["a-third", "b-second", "c-first"]
    assert names(call(App.listall, sort_by=("created_at", "asc"))) == ["c-first", "b-second", "a-third"]
    assert names(call(App.listall, sort_by=("name", "desc"), limit=2)) == ["c-first", "b-second"]
    assert names(call(App.listall, in_status="active")) == ["b-second", "c-first"]
    assert names(call(App.listall, in_status=("STOPPED", "DEPLOYMENT_STATUS_FAILED"))) == ["a-third"]
    assert names(call(App.listall, created_by_subject="somebody-else")) == []
    creator = call(App.get, "c-first").to_dict()["spec"]["creator"]["user"]["id"]["subject"]
    assert len(call(App.listall, creator)) == 3


def test_what_cannot_be_asked_is_said(apps, call):
    from flyte import errors
    from flyte.remote import App

    with pytest.raises(ValueError, match="did you mean `active`"):
        call(App.listall, in_status="actve")
    with pytest.raises(ValueError, match="asc"):
        call(App.listall, sort_by=("name", "up"))
    with pytest.raises(errors.ConfigError, match="colour.*created_at"):
        call(App.listall, sort_by=("colour", "asc"))
    with pytest.raises(ValueError, match="not a spec"):
        call(App.replace, "c-first", {"autoscaling": 3}, "for the test")


def test_the_command_line_lists_the_same(apps, home):
    listed = home.json("get", "app", "--status", "stopped")
    assert [app["name"] for app in listed] == ["a-third"]
    assert len(home.json("get", "app", "--only-mine", "--limit", "2")) == 2
    assert home.json("get", "app", "--domain", "staging") == []
    wrong = home.flyte("get", "app", "--status", "asleep")
    assert wrong.returncode == 2 and "scaling_up" in wrong.stderr


def test_replace_gives_an_app_another_spec(apps, call, home):
    from flyte.remote import App

    app = call(App.get, "b-second")
    spec = app.to_dict()["spec"]
    (word,) = [entry for entry in spec["container"]["env"] if entry["key"] == "WORD"]
    same = call(App.replace, app.name, spec, "nothing")
    assert same.revision == app.revision, "an equal spec is no revision"
    word["value"] = str(app.revision)
    changed = call(App.replace, app.name, spec, "another word", labels={"team": "red"})
    assert changed.revision == app.revision + 1
    call(changed.watch)
    assert get_json(app.endpoint)["word"] == str(app.revision)
    again = call(App.get, "b-second").to_dict()
    assert again["metadata"]["labels"] == {"team": "red"}
    spec["container"]["env"] = [{"key": "WORD", "value": "first"}]
    call(call(App.replace, app.name, spec, "back").watch)


def test_a_change_that_failed_is_told_however_late_it_is_asked_for(apps, call, home):
    """The revision before is the app's again by then, and goes on."""
    from flyte import errors
    from flyte.remote import App

    app = call(App.get, "c-first")
    spec = app.to_dict()["spec"]
    spec["container"]["args"] = ["python", "-c", "raise SystemExit(3)"]
    changed = call(App.replace, app.name, spec, "for the worse")
    until(lambda: "keeps serving" in home.json("get", "app", app.name)["message"], 30)
    assert call(App.get, app.name).revision == app.revision < changed.revision
    for _ in range(2):
        with pytest.raises(errors.AppError, match="code 3"):
            call(changed.watch)
    assert call(app.watch).is_active()


def test_exit_handlers_may_stop_apps(apps, home):
    apps.write(
        "stops.py",
        """
        import atexit, flyte
        from flyte.remote import App

        @atexit.register
        def stop():
            app.deactivate(wait=True)

        app = App.get("b-second")
        """,
    )
    done = apps.run("stops.py")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert home.json("get", "app", "b-second")["status"] == "STOPPED"
    assert home.flyte("update", "app", "b-second", "--activate", "--wait").returncode == 0


def test_delete_takes_a_name_on_the_class(apps, call, home):
    from flyte import errors
    from flyte.remote import App

    served = apps.run("main.py")
    assert served.returncode == 0, served.stderr
    assert call(App.delete, "a-third") is None
    assert "a-third" not in home.names()
    with pytest.raises(errors.NotFoundError, match="`a-third`"):
        call(App.delete, "a-third")
    with pytest.raises(errors.NotFoundError):
        call(App.delete, "c-first", project="elsewhere")


# --- What our subset of the protocol does not name -------------------------------------------


def fields(message: bytes) -> list[tuple[int, int, bytes]]:
    """Number, wire type and content of each field, in order; only what is needed here."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        start = at
        if tag & 7 == 2:
            length = varint()
            content = message[at : at + length]
            at += length
        else:
            assert tag & 7 == 0
            varint()
            content = message[start:at]
        found.append((tag >> 3, tag & 7, content))
    return found


def number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def written(found: list[tuple[int, int, bytes]]) -> bytes:
    """The message again."""
    out = b""
    for field, kind, content in found:
        out += number(field << 3 | kind) + (number(len(content)) if kind == 2 else b"") + content
    return out


def marked(message: bytes, path: tuple[int, ...], mark: bytes) -> bytes:
    """With an unknown field in the message that the path of field numbers leads to."""
    if not path:
        return message + number(1999 << 3 | 2) + number(len(mark)) + mark
    changed, is_found = [], False
    for field, kind, content in fields(message):
        if field == path[0] and not is_found:
            content, is_found = marked(content, path[1:], mark), True
        changed.append((field, kind, content))
    assert is_found, path
    return written(changed)


def field_of(message: bytes, path: tuple[int, ...]) -> bytes:
    """The first field that the path leads to."""
    for step in path:
        message = next(content for field, _, content in fields(message) if field == step)
    return message


# In the app, its metadata, its id; its spec, the container, a port, a variable, the autoscaling.
PATHS = [(), (1,), (1, 1), (2,), (2, 1), (2, 1, 7), (2, 1, 5), (2, 3), (2, 3, 1), (2, 4)]


def test_fields_that_nobody_here_knows_survive(apps, home):
    """Through Get, our client's deactivate and activate, and Get again."""
    from flyte.remote import App

    endpoint = (
        home.json("local", "start")["listen"]
        or (home.json("local", "start", "--listen", "127.0.0.1:0")["listen"])
    )

    def ask(method: str, body: bytes) -> bytes:
        request = urllib.request.Request(
            f"{endpoint}/flyteidl2.app.AppService/{method}",
            data=body,
            headers={"Content-Type": "application/proto", "Connect-Protocol-Version": "1"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return field_of(answer.read(), (1,))

    app = App.get("c-first")
    id_ = b"".join(
        number(field << 3 | 2) + number(len(text)) + text.encode()
        for field, text in ((2, app.project), (3, app.domain), (4, app.name))
    )

    def stored() -> bytes:
        return ask("Get", b"\x0a" + number(len(id_)) + id_)

    message = stored()
    for index, path in enumerate(PATHS):
        message = marked(message, path, f"mark {index}".encode())
    ask("Update", b"\x0a" + number(len(message)) + message)
    until(lambda: App.get("c-first").is_active(), 20)

    def missing() -> list[int]:
        now = stored()
        return [
            index
            for index, path in enumerate(PATHS)
            if f"mark {index}".encode() != field_of(field_of(now, path), (1999,))
        ]

    assert missing() == []
    handle = App.get("c-first")
    before = handle.revision
    handle.deactivate(wait=True)
    assert missing() == []
    handle.activate(wait=True)
    assert missing() == []
    assert handle.revision == before, "nothing was changed on the way"
