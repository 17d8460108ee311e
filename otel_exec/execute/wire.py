"""How the driver and its worker processes talk: frames on each worker's own socket, whole messages on the one queue that they share.

What comes in: kinds and bytes. What goes out: the same, at the other end. Knows nothing of what the bytes mean.

The queue is one socket pair that keeps message borders; every worker waits on its read end, and the kernel gives each message to one of them. So an attempt handed over
early is bound to no worker, and the driver, which holds the read end too, can take back what nobody has taken.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_exec.execute.interrupts import SignalGuard

__all__ = ["CLAIM", "MESSAGE_BYTES", "U64", "Frames", "Hello", "Kind", "Link", "Message", "TaskQueue", "frame", "read_message", "remove", "sequence_of"]

_HEAD = struct.Struct("<IB")
# What begins a frame's payload: a sequence number or an instant; a sequence number and the instant of its claim.
U64 = struct.Struct("<Q")
CLAIM = struct.Struct("<Qq")
_SEQUENCE = struct.Struct("<QB")

# Longer messages go through a file. Below the bound of a datagram on every system (macOS: net.local.dgram.maxdgram is raised by SO_SNDBUF) and of one cheap receive.
MESSAGE_BYTES = 60 * 1024
_RECEIVE_BYTES = 64 * 1024


class Kind:
    """The kinds of frame. Upper part: worker to driver."""

    READY = 1
    CLAIMED = 2
    REPORT = 3
    BEAT = 4
    OUTPUT = 5
    ASK_MAIN = 6
    FAN_OPEN = 7
    FAN_ITEM = 8
    FAN_RECLAIM = 9
    FAN_CANCEL = 10
    FAN_CLOSE = 11
    ITEM_DONE = 12

    HELLO = 32
    INTERRUPT = 33
    MAIN = 34
    GRANT = 35
    ITEM_RESULT = 36
    ITEM_LOST = 37
    GIVEN_BACK = 38
    STILL_RUNNING = 39


class Message:
    """The kinds of message on the queue."""

    STEP = 1
    ITEM = 2
    FILE_STEP = 3
    FILE_ITEM = 4
    STOP = 5


class Hello(msgspec.Struct, frozen=True):
    """What a worker process is told first. `settings`: the `RunSettings`, pickled. `slot` is its place in the shared page; `tied`: it was started from the driver's main thread."""

    worker_id: str
    settings: bytes
    folder: str
    slot: int
    driver_pid: int
    tied: bool
    sys_path: list[str]
    argv: list[str]


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return _HEAD.pack(len(payload), kind) + payload


class Frames:
    """Bytes in, whole frames out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take in bytes; yield the frames that are whole."""
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        try:
            while size - at >= 5:
                length, kind = _HEAD.unpack_from(buffer, at)
                end = at + 5 + length
                if end > size:
                    break
                payload = bytes(buffer[at + 5 : end])
                at = end
                yield kind, payload
        finally:
            del buffer[:at]


class Link:
    """A worker's end of its own socket: blocking, frames are sent whole, from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lock = threading.Lock()
        self.pid = os.getpid()
        self.guard: SignalGuard | None = None  # holds interrupts back while half a frame is out

    def send(self, data: bytes) -> None:
        """Send frames. A driver that is gone ends this process elsewhere; here it is ignored. A forked child says nothing."""
        if os.getpid() != self.pid:
            return
        guard = self.guard
        if guard is not None:
            guard.shield()
        try:
            with self._lock:
                self.sock.sendall(data)
        except OSError:
            pass
        finally:
            if guard is not None:
                guard.unshield()


class TaskQueue:
    """The driver's side of a queue: sends without blocking, keeps what does not fit, takes back what nobody took.

    Messages are numbered; `big` is the folder for those too long for a socket.
    """

    def __init__(self, big: str) -> None:
        kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
        self._send, self.receive = socket.socketpair(socket.AF_UNIX, kind)
        self._send.setblocking(False)
        for end in (self._send, self.receive):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        self._big = big
        self._waiting: list[tuple[int, bytes]] = []

    @property
    def full(self) -> bool:
        """Whether messages wait here for room in the socket."""
        return bool(self._waiting)

    def fileno(self) -> int:
        """The sending end's descriptor, to wait until there is room."""
        return self._send.fileno()

    def put(self, sequence: int, kind: int, body: bytes) -> None:
        """Send a message, or keep it until there is room."""
        if len(body) > MESSAGE_BYTES:
            path = os.path.join(self._big, f"message-{sequence}")
            with open(path, "wb") as file:
                file.write(body)
            kind = Message.FILE_STEP if kind == Message.STEP else Message.FILE_ITEM
            body = path.encode()
        self._waiting.append((sequence, _SEQUENCE.pack(sequence, kind) + body))
        if len(self._waiting) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what there is room for."""
        sent = 0
        for _, data in self._waiting:
            try:
                self._send.send(data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno == 55:  # ENOBUFS on macOS and BSD: full, too
                    break
                raise
            sent += 1
        del self._waiting[:sent]

    def drain(self) -> list[int]:
        """Take back all that no worker has taken; returns the sequence numbers, in order."""
        taken = []
        while True:
            try:
                data = self.receive.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            if not data:
                break
            sequence, kind = _SEQUENCE.unpack_from(data)
            if kind in (Message.FILE_STEP, Message.FILE_ITEM):
                remove(data[_SEQUENCE.size :].decode())
            taken.append(sequence)
        for sequence, data in self._waiting:
            if data[8] in (Message.FILE_STEP, Message.FILE_ITEM):
                remove(data[_SEQUENCE.size :].decode())
            taken.append(sequence)
        self._waiting = []
        return taken

    def end(self, readers: int) -> None:
        """Tell the workers that nothing more comes."""
        try:
            if sys.platform == "linux":
                self._send.shutdown(socket.SHUT_WR)
            else:
                for _ in range(readers):
                    self._send.send(_SEQUENCE.pack(0, Message.STOP))
        except OSError:
            pass

    def close(self) -> None:
        """Close both ends."""
        self._send.close()
        self.receive.close()


def read_message(data: bytes) -> tuple[int, int, bytes]:
    """Return (sequence, kind, body) of a message, read from its file where it lies in one."""
    sequence, kind = _SEQUENCE.unpack_from(data)
    body = data[_SEQUENCE.size :]
    if kind in (Message.FILE_STEP, Message.FILE_ITEM):
        path = body.decode()
        with open(path, "rb") as file:
            body = file.read()
        remove(path)
        kind = Message.STEP if kind == Message.FILE_STEP else Message.ITEM
    return sequence, kind, body


def sequence_of(data: bytes) -> int:
    """Return a message's number."""
    return int(_SEQUENCE.unpack_from(data)[0])


def remove(path: str) -> None:
    """Remove a file that may be gone."""
    with contextlib.suppress(OSError):
        os.unlink(path)


# --- the shared page: what each worker has in hand ----------------------------------------------------------------------------------------------

SLOT = struct.Struct("<QQ")
SLOTS = 1024
# Some places are left for the extra workers of fan-outs.
MAX_WORKERS = SLOTS - 64
NO_OFFSET = (1 << 64) - 1
