"""The base of all environments: checks, dependencies, registry, and which file declared it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from flyte import Environment, Image, PodTemplate, Resources, Secret
from flyte._environment import _REGISTRY
from flyte.app import AppEnvironment


def test_defaults_and_positional_order():
    env = Environment("web")
    assert (env.depends_on, env.pod_template, env.description, env.secrets) == ([], None, None, None)
    assert (env.env_vars, env.resources, env.interruptible, env.image) == (None, None, False, "auto")
    assert (env.include, env.service_account) == ((), None)
    positional = Environment(
        "web", [env], "pod", "text", "key", {"A": "b"}, Resources(cpu=1), True, "img", ["f"], "sa"
    )
    assert positional.service_account == "sa" and positional.include == ("f",)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depends_on", [1], "Expected depends_on to be of type List"),
        ("depends_on", None, "Expected depends_on"),
        ("pod_template", 1, "Expected pod_template"),
        ("secrets", (1,), "SecretRequest"),
        ("secrets", [1], "SecretRequest"),
        ("env_vars", 3, "Expected env_vars to be of type Dict"),
        ("env_vars", {"A": None}, "Expected env_vars"),
        ("env_vars", {1: "a"}, "Expected env_vars"),
        ("resources", 3, "Expected resources"),
        ("image", 3, "Expected image"),
        ("include", "a.txt", "bare str"),
        ("include", 3, "Expected include"),
        ("include", [3], "Expected include"),
        ("service_account", 3, "Expected service_account"),
        ("name", 3, "Expected name"),
    ],
)
def test_types_are_checked(field, value, message):
    with pytest.raises(TypeError, match=message):
        Environment(**{"name": "web", field: value})


@pytest.mark.parametrize("name", ["Web", "a b", "", "-a", "a.b"])
def test_names_are_snake_or_kebab_case(name):
    with pytest.raises(ValueError, match="snake_case or kebab-case"):
        Environment(name)


def test_accepted_forms():
    env = Environment("a_b-c1", secrets=["k", Secret("l")], env_vars={"A": 1}, image=Image.from_base("x"))
    assert env._secrets() == (Secret("k"), Secret("l"))
    assert env.env_vars == {"A": "1"}
    assert Environment("a", pod_template=PodTemplate(), image=None, include="").include == ()


def test_long_descriptions_are_cut():
    assert len(Environment("a", description="x" * 255).description) == 255
    cut = Environment("a", description="x" * 256).description
    assert len(cut) == 255 and cut.endswith("x(tr.)")


def test_dependencies_once_and_never_self():
    shared = []
    web, other, base = Environment("web", shared), Environment("other", shared), Environment("base")
    web.add_dependency(base, base)
    web.add_dependency(base)
    assert web.depends_on == [base] and other.depends_on == []
    with pytest.raises(ValueError, match="Cannot add self"):
        web.add_dependency(web)
    with pytest.raises(TypeError):
        web.add_dependency("base")


def test_registry_holds_accepted_environments_in_order():
    count = len(_REGISTRY)
    first, second = Environment("first"), AppEnvironment(name="second")
    with pytest.raises(ValueError):
        AppEnvironment(name="Third")
    clone = second.clone_with("fourth")
    assert all(a is b for a, b in zip(_REGISTRY[count:], [first, second, clone], strict=True))


def test_repr_keeps_variables_to_itself():
    assert repr(Environment("web", env_vars={"TOKEN": "s3cret"})) == "Environment(name='web')"


def test_declaring_file_is_the_callers():
    env = AppEnvironment(name="a")
    assert env._declaring_file == os.path.abspath(__file__)
    assert env.clone_with("b")._declaring_file == os.path.abspath(__file__)


def load(tmp_path, name, code):
    path = tmp_path / f"{name}.py"
    path.write_text(textwrap.dedent(code))
    space = {"__name__": name, "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space, str(path)


def test_clone_is_declared_where_it_is_cloned(tmp_path):
    original = AppEnvironment(name="a")
    space, path = load(tmp_path, "other", "def clone(env): return env.clone_with('b')")
    assert space["clone"](original)._declaring_file == path


def test_constructors_of_subclasses_do_not_count(tmp_path):
    space, path = load(
        tmp_path,
        "library",
        """
        from dataclasses import dataclass
        from flyte.app import AppEnvironment

        @dataclass
        class Mine(AppEnvironment):
            def __post_init__(self):
                super().__post_init__()

        class Plain(AppEnvironment):
            def __init__(self, name):
                super().__init__(name=name)

        def factory(): return AppEnvironment(name="made")
        """,
    )
    here = os.path.abspath(__file__)
    assert space["Mine"](name="a")._declaring_file == here
    assert space["Plain"]("a")._declaring_file == here
    assert space["factory"]()._declaring_file == path


def test_projects_below_a_folder_called_flyte_are_found(tmp_path):
    folder = tmp_path / "flyte"
    folder.mkdir()
    space, path = load(folder, "app", "from flyte.app import AppEnvironment\nenv = AppEnvironment(name='a')")
    assert space["env"]._declaring_file == path


def test_no_file_in_an_interactive_session():
    code = "from flyte.app import AppEnvironment as A; print(A(name='a')._declaring_file)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_no_file_for_notebook_cells():
    # A notebook runs cells in `__main__` without a file, below frames of the kernel that have one.
    space = {"__name__": "__main__"}
    code = "from flyte.app import AppEnvironment\nenv = AppEnvironment(name='a')"
    exec(compile(code, "/tmp/ipykernel_1/2.py", "exec"), space)
    assert space["env"]._declaring_file is None
