"""Files and folders as values: `File` and `Dir`.

A value is only a path with a type. As the value of a parameter it is fetched before an app starts,
so that the app sees a local path; elsewhere it can be opened, listed and fetched with the functions
here, wherever it lies. Credentials for stores are those of the process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import GenericAlias

from .._mistake import mistake, no_file
from .._replica import in_replica

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import IO, Any, TypeVar

    from ._remote import Arrival

    _Place = TypeVar("_Place", bound="_Located")

_FILE_SCHEME = "file://"


@dataclass(frozen=True)
class _Located:
    """A path with a type; the part that `File` and `Dir` share."""

    path: str
    name: str | None = None
    format: str = ""
    hash: str | None = None
    _from_local: bool = field(default=False, init=False, repr=False, compare=False)
    """Whether it is sent with the code when an app is served."""

    # `File[...]` reads well in annotations; what is inside the brackets changes nothing here.
    __class_getitem__ = classmethod(GenericAlias)  # type: ignore[var-annotated]

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        if not self.path:
            raise mistake(
                f"the path of a {type(self).__name__} must not be empty",
                'write `File.from_local("data.csv")` or `File("s3://bucket/data.csv")`',
            )
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
            f"`{self.path}` has no path here: it lies behind `{scheme}://`",
            hints=(
                "fetch it first, `path = value.download_sync()`; or pass it as the value of a `Parameter`, "
                "and the app finds a local copy",
            ),
        )

    @classmethod
    def _made_from_local(cls: type[_Place], local_path: str | os.PathLike[str], remote: str | None) -> _Place:
        path = os.path.abspath(os.fspath(local_path))
        if not in_replica() and not cls._is_there(path):
            raise no_file(
                f"no {cls.__name__.lower()} at `{path}`",
                "paths are relative to the folder that the program was started from",
            )
        if remote is not None:
            return cls(remote)
        value = cls(f"{_FILE_SCHEME}{path}")
        object.__setattr__(value, "_from_local", True)
        return value

    @classmethod
    def _sent(cls, local_path: str | os.PathLike[str], remote: str | None) -> tuple[str, str, bool] | None:
        """What has to be sent where; nothing where a declaration is read a second time in a replica."""
        path = os.path.abspath(os.fspath(local_path))
        if remote is None or not cls._is_there(path):
            return None
        return path, remote, cls._is_folder()

    @staticmethod
    def _is_there(path: str) -> bool:
        return os.path.exists(path)

    def exists_sync(self) -> bool:
        """Return whether it is there, and is a file or a folder as declared.

        Raises:
            flyte.errors.Error: the store does not tell.
        """
        if self._scheme() is None:
            return self._is_there(self._local())
        try:
            self._look()
        except FileNotFoundError:
            return False
        return True

    def _look(self) -> object:
        """Ask a store for it; raises `FileNotFoundError` where it is not there."""
        raise NotImplementedError

    async def exists(self) -> bool:
        """Do what `exists_sync` does, without blocking the event loop."""
        return await _in_thread(self.exists_sync)  # type: ignore[no-any-return]

    def download_sync(self, local_path: str | os.PathLike[str] | None = None) -> str:
        """Return the path of a local copy.

        Args:
            local_path: where to copy to; a trailing `/`, or a folder that exists, means "into this
                folder". Without it, what is here already stays where it is, and what is fetched is
                put into a new folder for temporary files.

        Raises:
            FileNotFoundError: it is not there.
            flyte.errors.Error: it did not arrive whole; what was at `local_path` is as before.
        """
        if self._scheme() is not None:
            from .. import _native

            arrival = self._arrival(local_path)
            with arrival as part:
                _native.storage_fetch(self.path, part, self._is_folder())
            return arrival.target
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
        if self._scheme() is not None:
            from .. import _native

            arrival = self._arrival(local_path)
            with arrival as part:
                await _native.storage_fetch_async(self.path, part, self._is_folder())
            return arrival.target
        return await _in_thread(self.download_sync, local_path)  # type: ignore[no-any-return]

    def _arrival(self, local_path: str | os.PathLike[str] | None) -> Arrival:
        from ._remote import Arrival

        name = self.path.split("?")[0].rstrip("/").rpartition("/")[2] or "download"
        target = None if local_path is None else os.fspath(local_path)
        if target is not None and self._goes_into(target):
            target = os.path.join(target, name)
        return Arrival(target, name, self._is_folder())

    @classmethod
    def _is_folder(cls) -> bool:
        return issubclass(cls, Dir)

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
        """Return a file of this machine, for an app that runs elsewhere.

        As the value of a parameter it is sent with the code when the app is served: as it is
        then, and unless it is there already.

        Args:
            local_path: where it is.
            remote_destination: send it now, to this address in a store.

        Raises:
            FileNotFoundError: it is not there.
            flyte.errors.Error: it could not be put to `remote_destination`.

        Example:
            >>> Parameter("data", File.from_local_sync("data.csv"))  # doctest: +SKIP
        """
        sent = cls._sent(local_path, remote_destination)
        value = cls._made_from_local(local_path, remote_destination)
        if sent is not None:
            from .. import _native

            _native.storage_send(*sent)
        return value

    @classmethod
    async def from_local(
        cls, local_path: str | os.PathLike[str], remote_destination: str | None = None
    ) -> File:
        """Do what `from_local_sync` does, without blocking the event loop."""
        sent = cls._sent(local_path, remote_destination)
        value = cls._made_from_local(local_path, remote_destination)
        if sent is not None:
            from .. import _native

            await _native.storage_send_async(*sent)
        return value

    def open(self, mode: str = "rb", block_size: int | None = None) -> _Opening:
        """Open the file, as `with` (plain file object) or `async with` (awaitable methods).

        Args:
            mode: as for the built-in `open`. A file of a store is read, or written anew: it is sent
                when the block ends, unless that ends by an exception.
            block_size: how many bytes are asked for at a time, of a store; 8 MiB by default.

        Raises:
            FileNotFoundError: on entering, it is not there.
            ValueError: on entering, a mode that a store has no way to do.
            flyte.errors.Error: on entering or reading, it cannot be read.

        Example:
            >>> async def head(file: File) -> bytes:
            ...     async with file.open() as stream:
            ...         return await stream.read(80)
        """
        return _Opening(self, mode, block_size)

    def open_sync(self, mode: str = "rb", block_size: int | None = None) -> IO[Any]:
        """Open the file; the same as the built-in `open`, for files of stores too.

        Args:
            mode: as for `open`.
            block_size: as for `open`.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: a mode that a store has no way to do.
            flyte.errors.Error: it cannot be read.
        """
        if self._scheme() is None:
            return open(self._local(), mode)
        from ._remote import open_remote

        return open_remote(self.path, mode, block_size)

    def _look(self) -> object:
        from .. import _native

        return _native.storage_open(self.path)

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
        """Return a folder of this machine, for an app that runs elsewhere.

        As the value of a parameter it is sent with the code when the app is served: as it is
        then, and unless it is there already.

        Args:
            local_path: where it is.
            remote_destination: send it now, to this address in a store.

        Raises:
            FileNotFoundError: it is not there.
            flyte.errors.Error: it could not be put to `remote_destination`.

        Example:
            >>> Parameter("data", Dir.from_local_sync("data"))  # doctest: +SKIP
        """
        sent = cls._sent(local_path, remote_destination)
        value = cls._made_from_local(local_path, remote_destination)
        if sent is not None:
            from .. import _native

            _native.storage_send(*sent)
        return value

    @classmethod
    async def from_local(
        cls, local_path: str | os.PathLike[str], remote_destination: str | None = None
    ) -> Dir:
        """Do what `from_local_sync` does, without blocking the event loop."""
        sent = cls._sent(local_path, remote_destination)
        value = cls._made_from_local(local_path, remote_destination)
        if sent is not None:
            from .. import _native

            await _native.storage_send_async(*sent)
        return value

    def walk_sync(
        self, recursive: bool = True, file_pattern: str = "*", max_depth: int | None = None
    ) -> Iterator[File]:
        """Yield the files inside, sorted by name within each folder.

        Args:
            recursive: whether to go into folders.
            file_pattern: which names, with `*`, `?` and `[...]`.
            max_depth: how many folders deep; 1 is this folder only.

        Raises:
            FileNotFoundError: it is remote, and nothing is there.
            flyte.errors.Error: it is remote, and cannot be listed.
        """
        from fnmatch import fnmatchcase

        deepest = 1 if not recursive else max_depth
        walk = self._walk_here if self._scheme() is None else self._walk_there
        for file in walk(deepest):
            if fnmatchcase(file.path.rpartition("/")[2], file_pattern):
                yield file

    def _walk_there(self, deepest: int | None) -> Iterator[File]:
        for relative in self._look():
            if deepest is None or relative.count("/") < deepest:
                yield File(f"{self.path.rstrip('/')}/{relative}")

    def _look(self) -> list[str]:
        from .. import _native

        return _native.storage_list(self.path)

    def _walk_here(self, deepest: int | None) -> Iterator[File]:
        root = self._local()
        for folder, folders, names in os.walk(root):
            depth = 1 if folder == root else os.path.relpath(folder, root).count(os.sep) + 2
            folders[:] = sorted(folders) if deepest is None or depth < deepest else []
            for name in sorted(names):
                yield File(os.path.join(folder, name))

    async def walk(self, recursive: bool = True, max_depth: int | None = None) -> AsyncIterator[File]:
        """Do what `walk_sync` does for all names, without blocking the event loop."""
        for file in await _in_thread(lambda: list(self.walk_sync(recursive, max_depth=max_depth))):
            yield file

    def list_files_sync(self) -> list[File]:
        """Return the files directly inside.

        Raises:
            FileNotFoundError: it is remote, and nothing is there.
            flyte.errors.Error: it is remote, and cannot be listed.
        """
        return list(self.walk_sync(recursive=False))

    async def list_files(self) -> list[File]:
        """Do what `list_files_sync` does, without blocking the event loop."""
        return await _in_thread(self.list_files_sync)  # type: ignore[no-any-return]

    def get_file_sync(self, file_name: str) -> File | None:
        """Return the file of that name directly inside, or `None`.

        Raises:
            flyte.errors.Error: the store does not tell.
        """
        folder = self.path if self._scheme() is not None else self._local()
        file = File(f"{folder.rstrip('/')}/{file_name}")
        return file if file.exists_sync() else None

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

    def __init__(self, file: File, mode: str, block_size: int | None) -> None:
        self._opens = file
        self._mode = mode
        self._block_size = block_size
        self._file: IO[Any] | None = None

    def __enter__(self) -> IO[Any]:
        self._file = self._opens.open_sync(self._mode, self._block_size)
        return self._file

    def __exit__(self, *failure: Any) -> None:
        if self._file is not None:
            self._file.__exit__(*failure)

    async def __aenter__(self) -> _AsyncFile:
        return _AsyncFile(await _in_thread(self.__enter__))

    async def __aexit__(self, *failure: Any) -> None:
        await _in_thread(self.__exit__, *failure)


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
