"""What a replica needs of a machine: processors, memory and accelerators, as declared.

Owns the syntax of quantities and the list of known devices. It does not know what a platform can
offer; that is decided when an app is deployed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ._mistake import mistake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    DeviceClass = Literal["GPU", "TPU", "NEURON", "AMD_GPU", "HABANA_GAUDI"]

_QUANTITY = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")

_UP_TO_8 = tuple(range(1, 9))
_GPUS = {
    **dict.fromkeys(
        ("A10", "A10G", "A100", "A100_80G", "B200", "H100", "H200", "L4", "L40s", "V100", "T4"), _UP_TO_8
    ),
    **dict.fromkeys(("A2", "RTX_PRO_4500", "GB10"), (1,)),
    "RTX_PRO_6000": (1, 2),
    **dict.fromkeys(("T4 shared", "L4 shared", "A10G shared", "A10 shared", "L40S shared"), (1,)),
}
_NEURONS = {
    **dict.fromkeys(("Trn1", "Trn1n", "Trn2", "Trn2u"), (1, 4, 8, 16)),
    **dict.fromkeys(("Inf1", "Inf2"), tuple(range(1, 17))),
}
_AMD_GPUS = dict.fromkeys(
    ("MI100", "MI210", "MI250", "MI250X", "MI300A", "MI300X", "MI325X", "MI350X", "MI355X"), (1,)
)
_GAUDIS = {"Gaudi1": (1,)}
_CLASSES = (("GPU", _GPUS), ("NEURON", _NEURONS), ("AMD_GPU", _AMD_GPUS), ("HABANA_GAUDI", _GAUDIS))

_GPU_PARTITIONS = {
    "A100": "1g.5gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb",
    "A100_80G": "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb",
    "H100": "1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb",
    "H200": "1g.18gb 1g.35gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb",
    "RTX_PRO_6000": "1g.24gb 2g.48gb 4g.96gb",
}
_TPU_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_TPU_PARTITIONS = {
    "V5E": _TPU_FLAT,
    "V5P": "2x2x1 2x2x2 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16 16x16x24",
    "V6E": _TPU_FLAT,
}
# Spellings with blanks that older code uses.
_OLD_NAMES = {"A100 80G": "A100_80G", "RTX PRO 6000": "RTX_PRO_6000", "RTX PRO 4500": "RTX_PRO_4500"}


@dataclass(frozen=True)
class Device:
    """An accelerator; usually made by `GPU`, `TPU`, `Neuron`, `AMD_GPU` or `HABANA_GAUDI`.

    Args:
        quantity: how many, at least 1.
        device_class: the family of the device.
        device: model name, or `None` for any of the family.
        partition: slice of the device, if it can be divided.

    Raises:
        ValueError: `quantity` is below 1.
    """

    quantity: int
    device_class: DeviceClass
    device: str | None = None
    partition: str | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.quantity) or self.quantity < 1:
            raise mistake(f"the quantity of a device must be an int of at least 1, got {self.quantity!r}")


def GPU(device: str, quantity: int, partition: str | None = None) -> Device:
    """Return Nvidia GPUs of one model.

    Args:
        device: model, such as `"T4"`, `"A100"` or `"H100"`.
        quantity: how many.
        partition: MIG slice, such as `"1g.5gb"`; only some models have them.

    Raises:
        ValueError: unknown model, or a quantity or partition that the model does not come in.

    Example:
        >>> GPU("A100", 1, "1g.5gb").partition
        '1g.5gb'
    """
    device = _renamed(device)
    _check_device("GPU", device, _GPUS)
    if not _is_int(quantity) or quantity not in _UP_TO_8:
        raise mistake(f"Invalid GPU quantity: {quantity!r}. Must be 1 to 8")
    _check_partition("GPU", device, partition, _GPU_PARTITIONS)
    return Device(quantity, "GPU", device, partition)


def TPU(device: str, partition: str | None = None) -> Device:
    """Return a Google TPU of model `"V5E"`, `"V5P"` or `"V6E"`, optionally a slice such as `"2x2"`.

    Raises:
        ValueError: unknown model or slice.
    """
    _check_device("TPU", device, _TPU_PARTITIONS)
    _check_partition("TPU", device, partition, _TPU_PARTITIONS)
    return Device(1, "TPU", device, partition)


def Neuron(device: str) -> Device:
    """Return an AWS Neuron device: `"Inf1"`, `"Inf2"`, `"Trn1"`, `"Trn1n"`, `"Trn2"`, `"Trn2u"`.

    Raises:
        ValueError: unknown model.
    """
    _check_device("Neuron", device, _NEURONS)
    return Device(1, "NEURON", device)


def AMD_GPU(device: str) -> Device:
    """Return an AMD GPU, such as `"MI300X"`.

    Raises:
        ValueError: unknown model.
    """
    _check_device("AMD GPU", device, _AMD_GPUS)
    return Device(1, "AMD_GPU", device)


def HABANA_GAUDI(device: str) -> Device:
    """Return a Habana Gaudi device: `"Gaudi1"`.

    Raises:
        ValueError: unknown model.
    """
    _check_device("Habana Gaudi", device, _GAUDIS)
    return Device(1, "HABANA_GAUDI", device)


@dataclass(frozen=True)
class Resources:
    """What one replica asks for. `None` leaves a resource to the platform.

    Args:
        cpu: cores: `1`, `0.5`, `"500m"`, or a pair (request, limit).
        memory: bytes as a Kubernetes quantity, `"512Mi"`, or a pair (request, limit).
        gpu: a count of any GPU, `"T4:1"`, or a `Device`. `0` asks for none.
        disk: scratch space, `"10Gi"`.
        shm: size of `/dev/shm`, `"1Gi"` or `"auto"`.

    Raises:
        ValueError: a value that is not such a quantity, or an unknown device.

    Example:
        >>> Resources(cpu=("500m", 2), memory="1Gi", gpu="T4:1").get_device()
        Device(quantity=1, device_class='GPU', device='T4', partition=None)
    """

    cpu: int | float | str | tuple[int | float | str, int | float | str] | None = None
    memory: str | tuple[str, str] | None = None
    gpu: int | str | Device | None = None
    disk: str | None = None
    shm: str | None = None

    def __post_init__(self) -> None:
        for one in _pair("cpu", self.cpu):
            _check_quantity("cpu", one, numbers=True)
        for one in _pair("memory", self.memory):
            _check_quantity("memory", one)
        if self.disk is not None:
            _check_quantity("disk", self.disk)
        if self.shm is not None and self.shm != "auto":
            _check_quantity("shm", self.shm)
        if isinstance(self.gpu, str):
            name, separator, count = self.gpu.rpartition(":")
            object.__setattr__(self, "gpu", f"{_renamed(name)}{separator}{count}")
        self.get_device()

    def get_device(self) -> Device | None:
        """Return the accelerator that is asked for, or `None`.

        Raises:
            ValueError: `gpu` names no known device; raised when the object is made.
        """
        gpu = self.gpu
        if gpu is None or isinstance(gpu, Device):
            return gpu
        if isinstance(gpu, str):
            return _parse_device(gpu)
        if not _is_int(gpu) or gpu < 0:
            raise mistake(f"gpu must be an int of at least 0, a str such as 'T4:1' or a Device, got {gpu!r}")
        return Device(gpu, "GPU") if gpu else None

    def get_shared_memory(self) -> str | None:
        """Return the size of `/dev/shm`; `"auto"` is the empty string, which means "as large as memory"."""
        return "" if self.shm == "auto" else self.shm


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _pair(field: str, value: object) -> tuple[object, ...]:
    if value is None:
        return ()
    if not isinstance(value, tuple):
        return (value,)
    if len(value) != 2:
        raise mistake(
            f"{field} tuple must have exactly two elements, (request, limit), got {value!r}",
            f"write `{field}=(REQUEST, LIMIT)`",
        )
    return value


def _check_quantity(field: str, value: object, numbers: bool = False) -> None:
    if numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
        # `not (value >= 0)` is also true of NaN.
        if not (0 <= value < float("inf")):
            raise mistake(f"{field} must not be negative, infinite or NaN, got {value!r}")
        return
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        example = "a number or '500m'" if numbers else "'512Mi', '1Gi' or '2G'"
        raise mistake(
            f"{field} must be a Kubernetes quantity such as {example}, got {value!r}",
            "leave it out, and the app takes what there is",
        )


def _renamed(device: str) -> str:
    new = _OLD_NAMES.get(device) if isinstance(device, str) else None
    if new is None:
        return device
    import warnings

    warnings.warn(f"device name {device!r} is deprecated, write {new!r}", DeprecationWarning, stacklevel=4)
    return new


def _check_device(kind: str, device: object, known: Mapping[str, object]) -> None:
    if not isinstance(device, str) or device not in known:
        raise mistake(f"Invalid {kind} type: {device!r}. Must be one of {', '.join(known)}")


def _check_partition(kind: str, device: str, partition: str | None, known: dict[str, str]) -> None:
    possible = known.get(device, "").split()
    if partition is None or partition in possible:
        return
    offered = f"Must be one of {', '.join(possible)}" if possible else "It has no partitions"
    raise mistake(f"Invalid partition {partition!r} for {kind} {device}. {offered}")


def _parse_device(text: str) -> Device:
    name, _, count = text.rpartition(":")
    for device_class, known in _CLASSES:
        if name in known and count in map(str, known[name]):
            return Device(int(count), device_class, name)  # type: ignore[arg-type]
    for _, known in _CLASSES:
        if name in known:
            counts = ", ".join(f"{name}:{number}" for number in known[name])
            raise mistake(f"gpu must be one of {counts}, got {text!r}")
    names = ", ".join(name for _, known in _CLASSES for name in known)
    raise mistake(f"gpu must be one of TYPE:COUNT with TYPE among {names}, got {text!r}")
