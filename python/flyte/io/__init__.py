"""Files and folders as values: `File` and `Dir`.

A value is only a path with a type. Local ones (plain paths and `file://`) can be opened and copied
here; remote ones are fetched by flyte before an app starts, so that apps see local paths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import GenericAlias

from .._replica import in_replica

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import IO, Any, TypeVar

    _Place = TypeVar("_Place", bound="_Located")

_FILE_SCHEME = "file://"


@dataclass(frozen=True)
class _Located:
    """A path with a type; the part that `File` and `Dir` share."""

    path: str
    name: str | None = None
    format: str = ""
    hash: str | None = None

    # `File[...]` reads well in annotations; what is inside the brackets changes nothing here.
    __class_getitem__ = classmethod(GenericAlias)  # type: ignore[var-annotated]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        if not self.path:
            raise ValueError(f"the path of a {type(self).__name__} must not be empty")
        if self.name is None:
            object.__setattr__(self, "name", self.path.rstrip("/").rpartition("/")[2] or None)

    def __str__(self) -> str:
        return self._local() if self._scheme() is None else self.path

    def __fspath__(self) -> str:
        return self._local()

    def _scheme(self) -> str | None:
        """The scheme of a remote path, or `None` for a local one."""
        scheme, separator, _ = self.path.partition("://")
        return scheme if separator and scheme != "file" else None

    def _local(self) -> str:
        scheme = self._scheme()
        if scheme is None:
            return self.path.removeprefix(_FILE_SCHEME)
        from ..errors import UnsupportedError

        raise UnsupportedError(
            f"`{self.path}` cannot be read here: `{scheme}://` is not a local path",
            hints=(
                "pass it as the value of a `Parameter` with `download=True`, and the app finds a local copy",
            ),
        )

    @classmethod
    def _made_from_local(cls: type[_Place], local_path: str | os.PathLike[str], remote: str | None) -> _Place:
        if remote is not None:
            from ..errors import UnsupportedError

            raise UnsupportedError(
                f"uploading to `{remote}` is not available; leave out `remote_destination`"
            )
        path = os.path.abspath(os.fspath(local_path))
        if not in_replica() and not cls._is_there(path):
            raise FileNotFoundError(f"no {cls.__name__.lower()} at `{path}`")
        return cls(f"{_FILE_SCHEME}{path}")

    @staticmethod
    def _is_there(path: str) -> bool:
        return os.path.exists(path)

    def exists_sync(self) -> bool:
        """Return whether it is there, and is a file or a folder as declared.

        Raises:
            flyte.errors.UnsupportedError: the path is remote.
        """
        return self._is_there(self._local())

    async def exists(self) -> bool:
        """Do what `exists_sync` does, without blocking the event loop."""
        return await _in_thread(self.exists_sync)  # type: ignore[no-any-return]

    def download_sync(self, local_path: str | os.PathLike[str] | None = None) -> str:
        """Return the path of a local copy.

        Args:
            local_path: where to copy to; a trailing `/`, or a folder that exists, means "into this
                folder". Without it nothing is copied, as the path is local already.

        Raises:
            FileNotFoundError: it is not there.
            flyte.errors.UnsupportedError: the path is remote.
        """
        source = self._local()
        if not self._is_there(source):
            raise FileNotFoundError(f"no {type(self).__name__.lower()} at `{source}`")
        if local_path is None:
            return source
        target = os.fspath(local_path)
        if self._goes_into(target):
            target = os.path.join(target, os.path.basename(source.rstrip("/")))
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        if os.path.abspath(target) != os.path.abspath(source):
            self._copy(source, target)
        return target

    async def download(self, local_path: str | os.PathLike[str] | None = None) -> str:
        """Do what `download_sync` does, without blocking the event loop."""
        return await _in_thread(self.download_sync, local_path)  # type: ignore[no-any-return]

    @staticmethod
    def _goes_into(target: str) -> bool:
        return target.endswith("/") or os.path.isdir(target)

    @staticmethod
    def _copy(source: str, target: str) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class File(_Located):
    """A file, local or remote.

    Args:
        path: local path, `file://` or the URI of an object store.
        name: name to show; the last part of the path by default.
        format: free text, such as `"csv"`.
        hash: text that changes when the content does, if the author knows one.

    Example:
        >>> File.from_existing_remote("s3://bucket/model.bin").name
        'model.bin'
    """

    @classmethod
    def from_existing_remote(cls, remote_path: str, file_cache_key: str | None = None) -> File:
        """Return a file that is stored already; nothing is checked or fetched.

        Args:
            remote_path: its URI.
            file_cache_key: becomes `hash`.
        """
        return cls(remote_path, hash=file_cache_key)

    @classmethod
    def from_local_sync(
        cls, local_path: str | os.PathLike[str], remote_destination: str | None = None
    ) -> File:
        """Return a file of this machine, as `file://` and its absolute path; nothing is uploaded.

        Raises:
            FileNotFoundError: it is not there.
            flyte.errors.UnsupportedError: a `remote_destination` is given.
        """
        return cls._made_from_local(local_path, remote_destination)

    @classmethod
    async def from_local(
        cls, local_path: str | os.PathLike[str], remote_destination: str | None = None
    ) -> File:
        """Do what `from_local_sync` does, without blocking the event loop."""
        return await _in_thread(cls.from_local_sync, local_path, remote_destination)  # type: ignore[no-any-return]

    def open(self, mode: str = "rb") -> _Opening:
        """Open the file, as `with` (plain file object) or `async with` (awaitable methods).

        Raises:
            flyte.errors.UnsupportedError: the path is remote.

        Example:
            >>> async def head(file: File) -> bytes:
            ...     async with file.open() as stream:
            ...         return await stream.read(80)
        """
        return _Opening(self._local(), mode)

    def open_sync(self, mode: str = "rb") -> IO[Any]:
        """Open the file; the same as the built-in `open` on its local path.

        Raises:
            flyte.errors.UnsupportedError: the path is remote.
        """
        return open(self._local(), mode)

    @staticmethod
    def _is_there(path: str) -> bool:
        return os.path.isfile(path)

    @staticmethod
    def _copy(source: str, target: str) -> None:
        from shutil import copyfile

        copyfile(source, target)


@dataclass(frozen=True)
class Dir(_Located):
    """A folder, local or remote.

    Args:
        path: local path, `file://` or the URI prefix of an object store.
        name: name to show; the last part of the path by default.
        format: free text.
        hash: text that changes when the content does, if the author knows one.

    Example:
        >>> Dir.from_existing_remote("s3://bucket/data/").name
        'data'
    """

    @classmethod
    def from_existing_remote(cls, remote_path: str, dir_cache_key: str | None = None) -> Dir:
        """Return a folder that is stored already; nothing is checked or fetched.

        Args:
            remote_path: its URI.
            dir_cache_key: becomes `hash`.
        """
        return cls(remote_path, hash=dir_cache_key)

    @classmethod
    def from_local_sync(
        cls, local_path: str | os.PathLike[str], remote_destination: str | None = None
    ) -> Dir:
        """Return a folder of this machine, as `file://` and its absolute path; nothing is uploaded.

        Raises:
            FileNotFoundError: it is not there.
            flyte.errors.UnsupportedError: a `remote_destination` is given.
        """
        return cls._made_from_local(local_path, remote_destination)

    @classmethod
    async def from_local(
        cls, local_path: str | os.PathLike[str], remote_destination: str | None = None
    ) -> Dir:
        """Do what `from_local_sync` does, without blocking the event loop."""
        return await _in_thread(cls.from_local_sync, local_path, remote_destination)  # type: ignore[no-any-return]

    def walk_sync(self, recursive: bool = True, max_depth: int | None = None) -> Iterator[File]:
        """Yield the files inside, sorted by name within each folder.

        Args:
            recursive: whether to go into folders.
            max_depth: how many folders deep; 1 is this folder only.

        Raises:
            flyte.errors.UnsupportedError: the path is remote.
        """
        root = self._local()
        deepest = 1 if not recursive else max_depth
        for folder, folders, names in os.walk(root):
            depth = 1 if folder == root else os.path.relpath(folder, root).count(os.sep) + 2
            folders[:] = sorted(folders) if deepest is None or depth < deepest else []
            for name in sorted(names):
                yield File(os.path.join(folder, name))

    async def walk(self, recursive: bool = True, max_depth: int | None = None) -> AsyncIterator[File]:
        """Do what `walk_sync` does, without blocking the event loop."""
        for file in await _in_thread(lambda: list(self.walk_sync(recursive, max_depth))):
            yield file

    def list_files_sync(self) -> list[File]:
        """Return the files directly inside.

        Raises:
            flyte.errors.UnsupportedError: the path is remote.
        """
        return list(self.walk_sync(recursive=False))

    async def list_files(self) -> list[File]:
        """Do what `list_files_sync` does, without blocking the event loop."""
        return await _in_thread(self.list_files_sync)  # type: ignore[no-any-return]

    def get_file_sync(self, file_name: str) -> File | None:
        """Return the file of that name directly inside, or `None`.

        Raises:
            flyte.errors.UnsupportedError: the path is remote.
        """
        path = os.path.join(self._local(), file_name)
        return File(path) if os.path.isfile(path) else None

    async def get_file(self, file_name: str) -> File | None:
        """Do what `get_file_sync` does, without blocking the event loop."""
        return await _in_thread(self.get_file_sync, file_name)  # type: ignore[no-any-return]

    @staticmethod
    def _is_there(path: str) -> bool:
        return os.path.isdir(path)

    @staticmethod
    def _goes_into(target: str) -> bool:
        # A folder is merged into one that exists; only `/` asks for a folder of its own inside.
        return target.endswith("/")

    @staticmethod
    def _copy(source: str, target: str) -> None:
        from shutil import copytree

        copytree(source, target, dirs_exist_ok=True)


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    import asyncio

    return await asyncio.to_thread(function, *args)


class _Opening:
    """A file that is about to be opened, by `with` or by `async with`."""

    def __init__(self, path: str, mode: str) -> None:
        self._path = path
        self._mode = mode
        self._file: IO[Any] | None = None

    def __enter__(self) -> IO[Any]:
        self._file = open(self._path, self._mode)
        return self._file

    def __exit__(self, *failure: object) -> None:
        if self._file is not None:
            self._file.close()

    async def __aenter__(self) -> _AsyncFile:
        return _AsyncFile(await _in_thread(self.__enter__))

    async def __aexit__(self, *failure: object) -> None:
        await _in_thread(self.__exit__)


class _AsyncFile:
    """A file whose methods are awaited; each runs in a thread, so that the event loop goes on."""

    def __init__(self, file: IO[Any]) -> None:
        self._file = file

    async def read(self, size: int = -1) -> Any:
        """Return at most `size` bytes or characters; all of them by default."""
        return await _in_thread(self._file.read, size)

    async def readline(self) -> Any:
        """Return the next line, empty at the end."""
        return await _in_thread(self._file.readline)

    async def write(self, data: Any) -> int:
        """Write `data` and return how much was written."""
        return await _in_thread(self._file.write, data)  # type: ignore[no-any-return]

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Move within the file and return the new position."""
        return await _in_thread(self._file.seek, offset, whence)  # type: ignore[no-any-return]


__all__ = ["Dir", "File"]
