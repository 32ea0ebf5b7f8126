"""`File.from_local` and `Dir.from_local`: sent with the code, named by what they hold."""

from __future__ import annotations

import json

from support import Home, Project, get_json

APP = """
import json, os
import flyte, web
from flyte.app import AppEnvironment, Parameter
from flyte.io import Dir, File

env = AppEnvironment(
    name="sent",
    parameters=[
        Parameter("one", File.from_local_sync("data/one.txt")),
        Parameter("mounted", File.from_local_sync("data/one.txt"), mount="in/named"),
        Parameter("folder", Dir.from_local_sync("data")),
        Parameter("into", Dir.from_local_sync("data"), mount="in/tree", ignore_patterns=["*.log"]),
    ],
)

@env.server
def server(one, mounted, folder, into):
    def tree(top):
        return {os.path.relpath(os.path.join(at, name), top): open(os.path.join(at, name)).read()
                for at, _, names in os.walk(top) for name in names}
    told = {"one": open(one).read(), "mounted": open("in/named").read(), "name": os.path.basename(one),
            "folder": tree(folder), "into": tree("in/tree"), "paths": [str(one), str(folder)]}
    web.serve(lambda path: told)

if __name__ == "__main__":
    app = flyte.serve(env)
    print(json.dumps([app.endpoint, app.revision]))
"""
TREE = {"one.txt": "1", "sub/two words.txt": "2", ".hidden": "h", "x.log": "l"}


def test_an_app_has_what_was_there_when_it_was_served(project: Project, home: Home):
    for name, text in TREE.items():
        project.write(f"data/{name}", text)
    project.write("main.py", APP)
    endpoint, revision = project.result()
    told = get_json(endpoint)
    assert (told["one"], told["mounted"], told["name"]) == ("1", "1", "one.txt")
    assert told["folder"] == TREE
    assert told["into"] == {name: text for name, text in TREE.items() if not name.endswith(".log")}
    # Nothing changed: nothing is sent, and nothing starts anew.
    again = home.flyte("serve", "main.py", "-o", "json", cwd=project.folder)
    assert json.loads(again.stdout)["endpoint"] == endpoint, again.stderr
    told = [step["detail"] for step in json.loads(again.stdout)["steps"] if "detail" in step]
    assert "parameter `one`, 1 B reused" in told and "parameter `folder`, 4 B reused" in told
    assert project.result() == [endpoint, revision]
    # What changes here changes nothing there, until it is served again.
    project.write("data/one.txt", "changed")
    assert get_json(endpoint)["one"] == "1"
    home.flyte("update", "app", "sent", "--deactivate", "--wait")
    home.flyte("update", "app", "sent", "--activate", "--wait")
    assert get_json(endpoint)["folder"]["one.txt"] == "1"
    _, second = project.result()
    assert second == revision + 1
    assert get_json(endpoint)["one"] == get_json(endpoint)["folder"]["one.txt"] == "changed"
    home.flyte("update", "app", "sent", "--rollback", str(revision))
    assert get_json(endpoint)["one"] == "1"


def test_what_cannot_be_read_is_told_before_anything_is_deployed(project: Project):
    project.write("main.py", APP)
    done = project.run("main.py")
    assert done.returncode == 1 and "no file at `" in done.stderr and "data/one.txt`" in done.stderr
    project.write("data/one.txt", "1")
    project.write("attempt.py", "import os, main, flyte\nos.remove('data/one.txt')\nflyte.serve(main.env)\n")
    done = project.run("attempt.py")
    assert done.returncode == 1
    assert "parameter `one` is `" in done.stderr and "cannot be read" in done.stderr


def test_a_value_of_the_command_line_is_sent_too(project: Project, home: Home):
    for name, text in TREE.items():
        project.write(f"data/{name}", text)
    project.write("main.py", APP)
    project.write("other.txt", "other")
    done = home.flyte("serve", "main.py", "--param", "one=other.txt", "-o", "json", cwd=project.folder)
    assert done.returncode == 0, done.stderr
    told = get_json(json.loads(done.stdout)["endpoint"])
    assert (told["one"], told["name"], told["mounted"]) == ("other", "other.txt", "1")
