"""`flyte.build` and `flyte.build_images`: images alone, before an app is served.

`flyte.serve` and `flyte.deploy` build what they need by themselves; building first is for
continuous integration, and for seeing that an image can be had at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flyte import _native
from flyte._dual import Dual

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from flyte._image import Image
    from flyte.app import AppEnvironment


@dataclass(frozen=True)
class ImageBuild:
    """What `flyte.build` returns.

    Args:
        uri: where the image is found: `env.flyte.local/<name>:<tag>` for an environment of the
            local platform, `<registry>/<name>:<tag>` for an image in a registry.
        remote_run: always None; images are built on this machine.
        build_run: always None, for the same reason.
    """

    uri: str | None
    remote_run: Any = None
    build_run: Any = None


@dataclass(frozen=True)
class ImageCache:
    """What `flyte.build_images` returns.

    Args:
        image_lookup: the URI of the image of each environment, by the environment's name.
        build_run_ids: always empty; images are built on this machine.
    """

    image_lookup: dict[str, str]
    build_run_ids: dict[str, str] = field(default_factory=dict)


def _build(image: Image | str, dry_run: bool = False, force: bool = False, wait: bool = True) -> ImageBuild:
    """Build an image where it is missing, and tell where it is found.

    Args:
        image: the image; the URI of one is returned as it is.
        dry_run: build nothing, and tell where the image would be found.
        force: build even what is there, and resolve the versions of packages again.
        wait: there for code that passes it; the image is there when the call returns.

    Returns:
        The build; `build.uri` names the image.

    Raises:
        TypeError: neither an image nor a URI.
        flyte.errors.ConfigError: the declaration cannot be used.
        flyte.errors.BuildError: the image cannot be built; says which layer failed, and why.

    Example:
        >>> image = flyte.Image.from_debian_base().with_pip_packages("fastapi")
        >>> flyte.build(image).uri              # doctest: +SKIP
        'env.flyte.local/flyte:5c0d…'
    """
    return ImageBuild(uri=_native.build_image(image, dry_run, force))


async def _build_async(
    image: Image | str, dry_run: bool = False, force: bool = False, wait: bool = True
) -> ImageBuild:
    return ImageBuild(uri=await _native.build_image_async(image, dry_run, force))


build = Dual(_build, _build_async, "flyte:build")


def _build_images(
    *envs: AppEnvironment, copy_style: str = "loaded_modules", seed_cache: ImageCache | None = None
) -> ImageCache:
    """Build the images of apps and of those they depend on; equal ones once, several at once.

    Args:
        envs: the app environments.
        copy_style: with `"none"` the code becomes part of images that have `with_code_bundle`.
        seed_cache: there for code that passes it; what is there already is found anyway.

    Returns:
        The URI of each environment's image.

    Raises:
        TypeError: something that is no app environment.
        flyte.errors.ConfigError: a declaration cannot be used.
        flyte.errors.BuildError: an image cannot be built; says which layer failed, and why.

    Example:
        >>> flyte.build_images(env).image_lookup        # doctest: +SKIP
        {'my-app': 'env.flyte.local/flyte:5c0d…'}
    """
    return ImageCache(_native.build_images(list(envs), copy_style))


async def _build_images_async(
    *envs: AppEnvironment, copy_style: str = "loaded_modules", seed_cache: ImageCache | None = None
) -> ImageCache:
    return ImageCache(await _native.build_images_async(list(envs), copy_style))


build_images = Dual(_build_images, _build_images_async, "flyte:build_images")
