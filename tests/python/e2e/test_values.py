"""Parameters: from the caller's values to what the app reads, in each of the three ways."""

from __future__ import annotations

import pytest
from support import get_json

APP = """
import json, os
import flyte, flyte.app
from flyte.app import AppEnvironment, Parameter, get_parameter
from flyte.io import Dir, File
import web

NAMES = ["text", "count", "ratio", "flag", "document", "folder"]

def declared(**more):
    values = {"text": "declared", "count": 3, "ratio": 0.5, "flag": True,
              "document": File.from_local_sync("data/one.txt"), "folder": Dir.from_local_sync("data")}
    return [Parameter(name, value, env_var=name.upper()) for name, value in {**values, **more}.items()]

def plain(value):
    if isinstance(value, (File, Dir)):
        return {"kind": type(value).__name__, "path": str(value.path)}
    return value

def contents(path):
    if os.path.isdir(path):
        return {name: open(os.path.join(path, name)).read() for name in sorted(os.listdir(path))}
    return open(path).read()
"""


@pytest.fixture
def with_data(project):
    project.write("data/one.txt", "1")
    project.write("data/two.txt", "2")
    return project


@pytest.fixture
def told(with_data):
    with_data.write(
        "main.py",
        APP
        + """
env = AppEnvironment(name="values", parameters=declared())

@env.server
def server(text, count, ratio, flag, document, folder):
    arguments = {name: plain(value) for name, value in locals().items()}
    got = {name: get_parameter(name) for name in NAMES}
    web.serve(lambda path: {
        "arguments": arguments,
        "got": got,
        "env": {name: os.environ[name.upper()] for name in NAMES},
        "document": contents(got["document"]),
        "folder": contents(got["folder"]),
    })

if __name__ == "__main__":
    import sys
    values = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    for name, path in values.pop("files", {}).items():
        values[name] = File.from_local_sync(path)
    app = flyte.with_servecontext(input_values={"values": values}).serve(env)
    print(json.dumps(app.endpoint))
""",
    )
    return lambda *words: get_json(with_data.result("main.py", *words))


def test_plain_values_keep_their_type_where_there_are_types(told):
    answer = told()
    plain = {"text": "declared", "count": 3, "ratio": 0.5, "flag": True}
    for way in ("arguments", "got"):
        assert {name: answer[way][name] for name in plain} == plain
        assert type(answer[way]["flag"]) is bool
    assert answer["env"]["text"] == "declared"
    assert answer["env"]["count"] == "3"
    assert answer["env"]["ratio"] == "0.5"
    assert answer["env"]["flag"].lower() == "true"


def test_files_and_folders_are_local_paths(told):
    answer = told()
    assert answer["document"] == "1"
    assert answer["folder"] == {"one.txt": "1", "two.txt": "2"}
    assert answer["arguments"]["document"]["kind"] == "File"
    assert answer["arguments"]["folder"]["kind"] == "Dir"
    for name in ("document", "folder"):
        assert answer["arguments"][name]["path"] == answer["got"][name] == answer["env"][name]


def test_values_given_when_serving_replace_the_declared_ones(told):
    import json

    answer = told(
        json.dumps({"text": "given", "count": 9, "flag": False, "files": {"document": "data/two.txt"}})
    )
    assert answer["got"]["text"] == answer["env"]["text"] == "given"
    assert answer["arguments"]["count"] == 9
    assert answer["arguments"]["flag"] is False
    assert answer["got"]["ratio"] == 0.5
    assert answer["document"] == "2"


def test_a_mount_is_where_the_app_finds_the_file(with_data):
    with_data.write(
        "main.py",
        APP
        + """
env = AppEnvironment(
    name="mounted",
    parameters=[
        Parameter("named", File.from_local_sync("data/one.txt"), mount="models/best.bin"),
        Parameter("into", File.from_local_sync("data/two.txt"), mount="models/more/"),
    ],
)

@env.server
def server():
    found = ["models/best.bin", "models/more/two.txt"]
    web.serve(lambda path: [get_parameter("named"), *map(contents, found)])

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
""",
    )
    path, best, more = get_json(with_data.result())
    assert path.endswith("models/best.bin")
    assert (best, more) == ("1", "2")


def test_a_relative_path_is_one_of_the_bundle(with_data):
    with_data.write(
        "main.py",
        APP
        + """
env = AppEnvironment(
    name="relative", include=["data"], parameters=[Parameter("document", File(path="data/one.txt"))]
)

@env.server
def server(document):
    web.serve(lambda path: [document.path, os.getcwd(), contents(get_parameter("document"))])

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
""",
    )
    path, cwd, contents = get_json(with_data.result())
    assert contents == "1"
    assert path == f"{cwd}/data/one.txt"


def test_commands_get_values_in_their_arguments(with_data):
    with_data.write(
        "main.py",
        APP
        + """
program = "import sys, web; web.serve(lambda path: sys.argv[1:])"
env = AppEnvironment(
    name="filled",
    parameters=[Parameter("word", "a b; c", env_var="WORD"), Parameter("number", 5, env_var="NUMBER")],
    args=["python", "-c", program, "$WORD", "--number=$NUMBER", "$$WORD"],
)

if __name__ == "__main__":
    print(json.dumps(flyte.serve(env).endpoint))
""",
    )
    assert get_json(with_data.result()) == ["a b; c", "--number=5", "$WORD"]


def test_a_parameter_without_a_value_must_be_given_one(with_data):
    with_data.write(
        "main.py",
        """
        from flyte.app import AppEnvironment, Parameter
        env = AppEnvironment(name="wanting", args="sleep 60", parameters=[Parameter("model")])
        """,
    )
    failure = with_data.failure()
    assert (failure["class"], failure["code"]) == ("ConfigError", "config.invalid")
    assert "`model`" in failure["message"]
    assert "input_values" in failure["hints"][0]


def test_a_file_that_does_not_exist(with_data):
    with_data.write(
        "main.py",
        """
        from flyte.app import AppEnvironment, Parameter
        from flyte.io import File
        env = AppEnvironment(
            name="lacking", args="sleep 60", parameters=[Parameter("model", File(path="data/three.txt"))]
        )
        """,
    )
    failure = with_data.failure()
    assert "three.txt" in failure["message"]
    assert failure["seconds"] < 18


@pytest.mark.parametrize("value", ["object()", "{'a': 1}"])
def test_a_value_of_another_type_is_refused(with_data, value):
    with_data.write(
        "main.py",
        f"""
        import flyte
        from flyte.app import AppEnvironment, Parameter
        env = AppEnvironment(name="typed", args="sleep 60", parameters=[Parameter("word", "x")])
        try:
            flyte.with_servecontext(input_values={{"typed": {{"word": {value}}}}})
        except TypeError as error:
            assert "word" in str(error), error
            print(1)
        """,
    )
    assert with_data.result() == 1
