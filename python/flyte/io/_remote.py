"""Files of stores as Python's file objects: read in pieces, or written here first and then sent.

Imported only when something remote is opened or fetched. What is between here and the store is the
native module's.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile

from .. import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

PIECE_BYTES = 8 << 20
"""So much is asked for at a time, unless the caller says otherwise."""


def open_remote(url: str, mode: str, block_size: int | None) -> IO[Any]:
    """Open a file of a store.

    Args:
        url: its address.
        mode: as for the built-in `open`; reading, or writing anew.
        block_size: bytes that one request asks for.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a mode that stores have no way to do.
        flyte.errors.Error: it cannot be read.

    Example:
        >>> with open_remote("s3://bucket/notes.txt", "r", None) as notes:   # doctest: +SKIP
        ...     notes.readline()
    """
    kind = mode.replace("b", "").replace("t", "")
    if kind not in ("r", "w") or ("b" in mode and "t" in mode):
        raise ValueError(
            f"`{url}` cannot be opened with mode {mode!r}: a file of a store is read or written anew"
        )
    if kind == "w":
        sending = _Sending(url)
        return sending if "b" in mode else _SendingText(sending)
    reading = _native.storage_open(url)
    raw: io.BufferedReader
    if reading.size is None:
        raw = io.BufferedReader(_Fetched(url))
    else:
        raw = io.BufferedReader(_Pieces(reading, reading.size), block_size or PIECE_BYTES)
    return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8")


class _Pieces(io.RawIOBase):
    """What is read of a store, one request for each piece."""

    def __init__(self, reading: _native.StorageReading, size: int) -> None:
        self._reading = reading
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._reading.read(self._at, len(buffer))
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)

    def readall(self) -> bytes:
        read = self._reading.read(self._at, max(0, self._size - self._at))
        self._at += len(read)
        return read

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"there is nothing before the beginning: {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at


class _Fetched(io.FileIO):
    """What a server sends in one go only: a copy, which is nobody else's and leaves no name."""

    def __init__(self, url: str) -> None:
        with tempfile.TemporaryDirectory(prefix="flyte-") as folder:
            path = os.path.join(folder, "copy")
            _native.storage_fetch(url, path, False)
            super().__init__(path)


class _Sending(io.BufferedWriter):
    """A file that is sent when it is closed, unless its `with` ended by an exception."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = tempfile.mkdtemp(prefix="flyte-")
        self._path = os.path.join(self._folder, "copy")
        super().__init__(io.FileIO(self._path, "wb"))

    def close(self) -> None:
        if self.closed:
            return
        try:
            super().close()
            _native.storage_send(self._path, self._url, False)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def give_up(self) -> None:
        """Close it, and send nothing."""
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __exit__(self, kind: Any, *failure: object) -> None:
        if kind is None:
            self.close()
        else:
            self.give_up()


class _SendingText(io.TextIOWrapper):
    def __init__(self, sending: _Sending) -> None:
        super().__init__(sending, encoding="utf-8")
        self._sending = sending

    def __exit__(self, kind: Any, *failure: object) -> None:
        if kind is not None:
            self._sending.give_up()
        self.close()


class Arrival:
    """A place that something is fetched to: beside its target until it is whole.

    Args:
        target: where it is to be in the end; `None` for a folder of its own.
        name: the name in that folder.
        is_folder: whether it is a folder, whose files are put among those that are there.

    Example:
        >>> with Arrival("model.bin", "model.bin", False) as part:           # doctest: +SKIP
        ...     _native.storage_fetch("s3://bucket/model.bin", part, False)
    """

    def __init__(self, target: str | None, name: str, is_folder: bool) -> None:
        self._is_folder = is_folder
        if target is None:
            self.target = os.path.join(tempfile.mkdtemp(prefix="flyte-"), name)
        else:
            self.target = target
        beside = os.path.dirname(os.path.abspath(self.target.rstrip("/")))
        os.makedirs(beside, exist_ok=True)
        # A hidden neighbour: on the same device, so that moving it costs nothing.
        self._scratch = tempfile.mkdtemp(prefix=".flyte-", dir=beside)

    def __enter__(self) -> str:
        part = os.path.join(self._scratch, "part")
        if self._is_folder:
            os.mkdir(part)
        return part

    def __exit__(self, kind: Any, *failure: object) -> None:
        try:
            if kind is None:
                part = os.path.join(self._scratch, "part")
                if self._is_folder and os.path.isdir(self.target):
                    shutil.copytree(part, self.target, dirs_exist_ok=True, copy_function=os.replace)
                else:
                    os.replace(part, self.target)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
