"""Secret, Resources, devices and PodTemplate."""

from __future__ import annotations

import sys
import types
from datetime import timedelta
from types import SimpleNamespace

import pytest

from flyte import AMD_GPU, GPU, HABANA_GAUDI, TPU, Device, Neuron, PodTemplate, Resources, Secret
from flyte._secret import as_secrets
from flyte.errors import UnsupportedError


def test_secret_env_var_names():
    assert Secret("my-key").as_env_var == "MY_KEY"
    assert Secret("key", group="my-group").as_env_var == "MY_GROUP_KEY"
    assert Secret("key", as_env_var="OTHER").as_env_var == "OTHER"
    mounted = Secret("key", mount="/etc/flyte/secrets")
    assert mounted.as_env_var is None and mounted.mount == "/etc/flyte/secrets"


def test_secret_checks():
    with pytest.raises(ValueError, match="Invalid environment variable name"):
        Secret("a.b")
    with pytest.raises(ValueError, match="must match"):
        Secret("a", as_env_var="lower")
    with pytest.raises(ValueError, match="Only /etc/flyte/secrets is supported"):
        Secret("a", mount="/other")
    with pytest.raises(ValueError, match="non-empty"):
        Secret("")
    with pytest.raises(AttributeError):
        Secret("a").key = "b"


def test_secret_requests():
    assert as_secrets(None) == () and as_secrets("a") == as_secrets(Secret("a")) == as_secrets(["a"])
    for wrong in (1, ("a",), [1]):
        with pytest.raises(TypeError, match="SecretRequest"):
            as_secrets(wrong)


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu": 1},
        {"cpu": 0.5},
        {"cpu": "500m"},
        {"cpu": ("500m", 2)},
        {"memory": "512Mi"},
        {"memory": ("1Gi", "2e9")},
        {"disk": "10G"},
        {"shm": "auto"},
        {"shm": "1Gi"},
        {"gpu": 0},
        {"gpu": 3},
    ],
)
def test_resources_are_stored_unchanged(fields):
    resources = Resources(**fields)
    for name in ("cpu", "memory", "gpu", "disk", "shm"):
        assert getattr(resources, name) == fields.get(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu": "abc"},
        {"cpu": -1},
        {"cpu": float("nan")},
        {"cpu": True},
        {"cpu": (1, 2, 3)},
        {"cpu": [1, 2]},
        {"memory": 3},
        {"memory": "1 GB"},
        {"memory": ("1Gi",)},
        {"disk": 3},
        {"disk": "auto"},
        {"shm": 1},
        {"gpu": -1},
        {"gpu": 1.5},
        {"gpu": True},
        {"gpu": "X:1"},
        {"gpu": "T4"},
        {"gpu": "T4:9"},
        {"gpu": "A100:0"},
    ],
)
def test_bad_resources(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Resources(**fields)


def test_devices_of_resources():
    assert Resources().get_device() is None and Resources(gpu=0).get_device() is None
    assert Resources(gpu=2).get_device() == Device(2, "GPU")
    assert Resources(gpu="A100:2").get_device() == Device(2, "GPU", "A100")
    assert Resources(gpu="Trn1:16").get_device() == Device(16, "NEURON", "Trn1")
    assert Resources(gpu="MI300X:1").get_device() == Device(1, "AMD_GPU", "MI300X")
    assert Resources(gpu="T4 shared:1").get_device() == Device(1, "GPU", "T4 shared")
    assert Resources(gpu=TPU("V5E", "2x2")).get_device() == Device(1, "TPU", "V5E", "2x2")
    assert Resources(shm="auto").get_shared_memory() == "" and Resources().get_shared_memory() is None


def test_old_device_names_are_rewritten():
    with pytest.warns(DeprecationWarning, match="A100_80G"):
        assert Resources(gpu="A100 80G:2").gpu == "A100_80G:2"
    with pytest.warns(DeprecationWarning):
        assert GPU("RTX PRO 6000", 1).device == "RTX_PRO_6000"


def test_device_makers():
    assert GPU("A100", 1, "1g.5gb") == Device(1, "GPU", "A100", "1g.5gb")
    assert Neuron("Inf1").device_class == "NEURON" and AMD_GPU("MI100").device_class == "AMD_GPU"
    assert HABANA_GAUDI("Gaudi1").device_class == "HABANA_GAUDI" and TPU("V5P").partition is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: GPU("x", 1),
        lambda: GPU("A100", 9),
        lambda: GPU("A100", 0),
        lambda: GPU("T4", 1, "1g.5gb"),
        lambda: GPU("A100", 1, "9g"),
        lambda: TPU("V5E", "2x2x1"),
        lambda: TPU("V1"),
        lambda: Neuron("x"),
        lambda: AMD_GPU("x"),
        lambda: HABANA_GAUDI("x"),
        lambda: Device(0, "GPU"),
    ],
)
def test_bad_devices(make):
    with pytest.raises(ValueError):
        make()


def pod(*names):
    return SimpleNamespace(containers=[SimpleNamespace(name=name) for name in names])


def test_pod_template_primary_container():
    assert PodTemplate().primary_container_name == "primary"
    assert PodTemplate.from_spec(pod("app")).primary_container_name == "app"
    assert PodTemplate.from_spec(pod("a", "b"), primary_container_name="b").primary_container_name == "b"
    for arguments in ((pod("a", "b"), None), (pod(), None), (pod("a"), "b")):
        with pytest.raises(ValueError, match="container"):
            PodTemplate.from_spec(arguments[0], primary_container_name=arguments[1])


def test_pod_template_grace_period_copies():
    template = PodTemplate(pod("app"), labels={"a": "b"})
    longer = template.with_termination_grace_period(timedelta(seconds=1.5))
    assert longer.pod_spec.termination_grace_period_seconds == 2 and longer.labels == {"a": "b"}
    assert not hasattr(template.pod_spec, "termination_grace_period_seconds")
    for wrong in (True, "5", None):
        with pytest.raises(TypeError):
            template.with_termination_grace_period(wrong)
    with pytest.raises(ValueError, match="non-negative"):
        template.with_termination_grace_period(-1)


def test_pod_template_makes_a_spec_when_there_is_none(monkeypatch):
    client = types.ModuleType("kubernetes.client")
    client.V1PodSpec = lambda containers: SimpleNamespace(containers=containers)
    monkeypatch.setitem(sys.modules, "kubernetes", types.ModuleType("kubernetes"))
    monkeypatch.setitem(sys.modules, "kubernetes.client", client)
    assert PodTemplate().with_termination_grace_period(3).pod_spec.termination_grace_period_seconds == 3


def test_pod_template_presets_are_refused():
    for method in ("allow_fuse", "allow_nested_sandboxing"):
        with pytest.raises(UnsupportedError, match=method):
            getattr(PodTemplate(), method)()
