"""What running tasks have done so far: executors tell the driver, which knows nothing of a task before it has ended."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from pyspark import TaskContext
from pyspark.sql import SparkSession

#: A task tells no more often than this.
SECONDS_BETWEEN = 0.5
_DATAGRAM_BYTES = 512
_LISTEN_SECONDS = 0.2
_NOWHERE = ("", 0)


class Done(NamedTuple):
    """What was done."""

    images: int
    bytes_read: int = 0

    def __add__(self, other: object) -> Done:
        if not isinstance(other, Done):
            return NotImplemented
        return Done(self.images + other.images, self.bytes_read + other.bytes_read)


@dataclass
class Teller:
    """On an executor: counts what a task does, and tells the driver now and then.

    A datagram that is lost does no harm, since each one tells all that the task did; nor does a driver that can't be
    reached: it hears of what was done when it is committed.

    Args:
        address: of the driver.
        token: which shows that it is one of its own tasks.
        chunk: which chunk the task is of.
    """

    address: tuple[str, int]
    token: str
    chunk: int
    _done: Done = field(default=Done(0), init=False)
    _told: float = field(default=0.0, init=False)
    _found: Any = field(default=None, init=False)

    def __call__(self, images: int, bytes_read: int = 0) -> None:
        """Add to what is done."""
        self._done += Done(images, bytes_read)
        if self.address != _NOWHERE and time.monotonic() - self._told >= SECONDS_BETWEEN:
            self._tell()
            self._told = time.monotonic()

    def _tell(self) -> None:
        context = TaskContext.get()
        partition, attempt = (context.partitionId(), context.attemptNumber()) if context else (0, 0)
        datagram = json.dumps([self.token, self.chunk, partition, attempt, *self._done]).encode()
        try:
            # Looked up once: a slow name server must not hold the backbone up twice a second.
            self._found = self._found or socket.getaddrinfo(*self.address, type=socket.SOCK_DGRAM)[0]
            family, kind, protocol, _, address = self._found
            with socket.socket(family, kind, protocol) as sender:
                sender.sendto(datagram, address)
        except OSError:
            self.address = _NOWHERE  # progress is a courtesy: no work fails or waits for want of it


class LiveCounts:
    """On the driver: a context that listens to what tasks tell.

    Attributes:
        done: what was committed, and of each partition under way what its furthest attempt did: a task that is
            repeated counts once.
        first_heard: when a task told of its first images, on `time.monotonic`'s clock; None before that.
    """

    def __init__(self, spark: SparkSession) -> None:
        conf = spark.sparkContext.getConf()
        # Where executors reach the driver is Spark's to know.
        self._host = str(conf.get("spark.driver.host", "127.0.0.1"))
        self._bind = str(conf.get("spark.driver.bindAddress", self._host))
        self._token = secrets.token_hex(8)
        self._chunk = 0
        self._committed = Done(0)
        self._tasks: dict[int, dict[int, Done]] = defaultdict(dict)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._listener: threading.Thread | None = None
        self._stop = threading.Event()
        self.first_heard: float | None = None

    def __enter__(self) -> Self:
        try:
            family = socket.getaddrinfo(self._bind, None, type=socket.SOCK_DGRAM)[0][0]
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.bind((self._bind, 0))
        except OSError:
            self._socket = None  # progress then moves commit by commit
            return self
        self._socket.settimeout(_LISTEN_SECONDS)
        self._listener = threading.Thread(target=self._listen, args=(self._socket,), name="live-counts", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._listener:
            self._listener.join()
        if self._socket:
            self._socket.close()

    @property
    def done(self) -> Done:
        """See the class."""
        with self._lock:
            furthest = [max(attempts.values()) for attempts in self._tasks.values()]
        return sum(furthest, self._committed)

    @property
    def committed(self) -> int:
        """Images that were committed."""
        return self._committed.images

    def teller(self) -> Teller:
        """For the tasks of the chunk at hand; travels to the executors."""
        address = (self._host, int(self._socket.getsockname()[1])) if self._socket else _NOWHERE
        return Teller(address, self._token, self._chunk)

    def commit(self, images: int) -> None:
        """All of the chunk's images are done, whatever its tasks told; the next chunk begins."""
        with self._lock:
            read = sum(max(each.bytes_read for each in attempts.values()) for attempts in self._tasks.values())
            self._committed += Done(images, read)
            self._chunk += 1
            self._tasks.clear()

    def _listen(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                datagram = listener.recv(_DATAGRAM_BYTES)
            except OSError:  # nobody told anything for a while
                continue
            try:
                token, chunk, partition, attempt, images, bytes_read = json.loads(datagram)
            except (ValueError, TypeError):  # not from a task of ours
                continue
            with self._lock:
                if token == self._token and chunk == self._chunk:
                    self.first_heard = self.first_heard or time.monotonic()
                    self._tasks[partition][attempt] = Done(images, bytes_read)
