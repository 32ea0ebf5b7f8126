"""What cannot be declared is refused with a class of `flyte.errors`, a code and the built-in class."""

from __future__ import annotations

import pytest

from flyte import Image, Resources, Secret, errors
from flyte.app import AppEnvironment, Parameter, Port, Scaling
from flyte.io import File

MISTAKES = {
    "name": (lambda: AppEnvironment(name="My_App"), ValueError),
    "name type": (lambda: AppEnvironment(name=1), TypeError),
    "reserved port": (lambda: Port(8022), ValueError),
    "port type": (lambda: Port("8080"), TypeError),
    "field": (lambda: AppEnvironment(name="a", args=7), TypeError),
    "unknown field": (lambda: AppEnvironment(name="a").clone_with("b", prot=1), TypeError),
    "pool": (lambda: AppEnvironment(name="a", cluster="c", cluster_pool="p"), ValueError),
    "parameter": (lambda: Parameter("p", object()), TypeError),
    "scaling": (lambda: Scaling(replicas=(3, 1)), ValueError),
    "memory": (lambda: Resources(memory="lots"), ValueError),
    "secret": (lambda: Secret(""), ValueError),
    "file": (lambda: File.from_local_sync("/not/there"), FileNotFoundError),
}
IMAGES = {
    "python": (lambda: Image.from_debian_base(python_version=(3, 1)), ValueError),
    "python type": (lambda: Image.from_debian_base(python_version=3.12), TypeError),
    "copy_style": (lambda: Image.from_debian_base().with_code_bundle("some"), ValueError),
    "packages": (lambda: Image.from_debian_base().with_pip_packages(["a"]), TypeError),
    "requirements": (lambda: Image.from_debian_base().with_requirements("/no.txt"), FileNotFoundError),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_declaration(mistake):
    make, builtin = MISTAKES[mistake]
    with pytest.raises(errors.ConfigError) as caught:
        make()
    assert isinstance(caught.value, builtin)
    assert caught.value.code == "config.invalid"
    assert str(caught.value).endswith("`flyte explain config.invalid` tells more")


@pytest.mark.parametrize("mistake", IMAGES)
def test_an_image(mistake):
    make, builtin = IMAGES[mistake]
    with pytest.raises(errors.ConfigError) as caught:
        make()
    assert isinstance(caught.value, builtin)
    assert caught.value.code == "image.invalid"


@pytest.mark.parametrize("mistake", ["name", "reserved port", "memory", "scaling", "file"])
def test_advice_stands_apart(mistake):
    with pytest.raises(errors.ConfigError) as caught:
        MISTAKES[mistake][0]()
    assert caught.value.hints
    assert not any(hint in caught.value.message for hint in caught.value.hints)
