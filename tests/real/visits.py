"""Visits that go on for a while and measure themselves: downloads, uploads, echoes, steady load."""

import asyncio
import contextlib
import dataclasses
import hashlib
import http.client
import itertools
import json
import socket
import threading
import time

import origins
from harness import MIB, check, same, until


class Flow:
    """Bytes or messages that keep arriving; knows when each did. Runs in a thread of its own."""

    what = ""

    def __init__(self):
        self.arrivals = []
        self.error = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def start(self):
        self._thread.start()
        return self

    def _guarded(self):
        try:
            self._run()
        except Exception as error:  # noqa: BLE001  (whatever ended it is the finding)
            self.error = error

    def arrived(self, _size=None):
        self.arrivals.append(time.monotonic())

    @property
    def over(self):
        return not self._thread.is_alive()

    def sound(self):
        check(self.error is None, f"the {self.what} broke: {self.error!r}")

    def next_after(self, moment, seconds):
        """Seconds from `moment` to the first arrival after it."""

        def probe():
            self.sound()
            last = self.arrivals[-1] if self.arrivals else 0
            check(last > moment or not self.over, f"the {self.what} is over")
            return last > moment

        until(f"something of the {self.what} arrives", seconds, probe, every=0.005)
        return next(one for one in self.arrivals if one > moment) - moment

    def longest_stall(self, begin, end):
        """The longest time without an arrival that touches the span."""
        before = [one for one in self.arrivals if one < begin][-1:] or [begin]
        inside = [one for one in self.arrivals if begin <= one <= end]
        after = [one for one in self.arrivals if one > end][:1] or ([] if self.over else [end])
        times = [*before, *inside, *after]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0)


class Download(Flow):
    """GET of `/bytes/SIZE`."""

    what = "download"

    def __init__(self, tunnel, size):
        super().__init__()
        self.tunnel, self.size, self.taken = tunnel, size, 0
        self.digest = hashlib.sha256()
        # Long, because a tunnel that stalls is measured, not given up.
        self.connection = tunnel.dial(timeout=300)

    def _run(self):
        with self.connection as connection:
            ask = f"GET /bytes/{self.size} HTTP/1.1\r\nhost: {self.tunnel.netloc}\r\n\r\n"
            connection.sendall(ask.encode())
            head = origins.read_head(connection)
            same(head.split()[1], "200", "the download's status")
            while self.taken < self.size:
                part = connection.recv(65536)
                check(part, f"ended after {self.taken} of {self.size} bytes")
                self.arrived()
                self.taken += len(part)
                self.digest.update(part)

    def abandon(self):
        """Leaves in the middle."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def reached(self, size, seconds):
        """Waits until so many bytes came."""

        def probe():
            self.sound()
            return self.taken >= size

        until(f"{size / MIB:.0f} MiB of the download", seconds, probe)

    def finish(self, seconds):
        until("the download's end", seconds, lambda: self.over)
        self.sound()
        same(self.digest.hexdigest(), origins.sha256_of(self.size), "the download's sha256")


class Upload(Flow):
    """POST that goes on until told to end; arrivals are those at the origin."""

    what = "upload"

    def __init__(self, tunnel, origin):
        super().__init__()
        self.ending = threading.Event()
        self.sent = 0
        self.connection = tunnel.dial(timeout=300)
        self.netloc = tunnel.netloc
        self.digest = hashlib.sha256()
        self.answer = None
        origin.posted = self.arrived

    def _run(self):
        connection = http.client.HTTPConnection(self.netloc)
        connection.sock = self.connection
        with contextlib.closing(connection):
            connection.request("POST", "/", body=self._parts(), encode_chunked=True)
            answer = connection.getresponse()
            same(answer.status, 200, "the upload's status")
            self.answer = json.loads(answer.read())

    def _parts(self):
        for number in itertools.count():
            if self.ending.is_set():
                return
            part = origins.BLOCK[: 65536 - number % 251]
            self.digest.update(part)
            self.sent += len(part)
            yield part

    def finish(self, seconds):
        self.ending.set()
        until("the upload's end", seconds, lambda: self.over)
        self.sound()
        same(self.answer["size"], self.sent, "bytes of the upload at the origin")
        same(self.answer["sha256"], self.digest.hexdigest(), "the upload's sha256")


@contextlib.contextmanager
def echo_origin():
    """A WebSocket that echoes; yields its port."""
    import websockets.exceptions
    import websockets.sync.server

    def serve(connection):
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            for message in connection:
                connection.send(message)

    quiet = {"compression": None, "ping_interval": None}
    with websockets.sync.server.serve(serve, "127.0.0.1", 0, **quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


class Echo(Flow):
    """A WebSocket that says something every `pause` seconds, whether or not it was answered."""

    what = "websocket"

    def __init__(self, tunnel, pause=0.02):
        import websockets.sync.client

        super().__init__()
        self.pause, self.ending, self.sent = pause, threading.Event(), 0
        plain = tunnel.dial(timeout=30)
        plain.settimeout(None)
        # TLS is done: what is left is the plain protocol over that connection.
        self.socket = websockets.sync.client.connect(
            f"ws://{tunnel.netloc}/",
            sock=plain,
            open_timeout=10,
            compression=None,
            ping_interval=None,
            proxy=None,
        )

    def _run(self):
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        answered = 0
        while not (self.ending.is_set() and answered == self.sent):
            with contextlib.suppress(TimeoutError):
                got = self.socket.recv(timeout=0.2)
                same(got, f"message {answered}", "an echo")
                self.arrived()
                answered += 1
        self.socket.close()

    def _send(self):
        with contextlib.suppress(Exception):
            while not self.ending.wait(self.pause):
                self.socket.send(f"message {self.sent}")
                self.sent += 1

    def finish(self, seconds):
        self.ending.set()
        until("the last echo", seconds, lambda: self.over)
        self.sound()


@dataclasses.dataclass
class Asked:
    """One visit of a load."""

    began: float
    # When all of the question had left.
    sent: float | None = None
    ended: float | None = None
    status: int | None = None
    headers: dict = dataclasses.field(default_factory=dict)
    error: str | None = None

    @property
    def took(self):
        return self.ended - self.began

    def said(self):
        what = self.status or self.error
        return f"{what} {self.headers.get('wormkey-error', '')}".strip()


class Load:
    """GETs at a steady pace, each on an idle kept-alive connection or a new one; a slow answer does
    not hold up the next question."""

    def __init__(self, tunnel, per_second, path="/", patience=60):
        self.tunnel, self.pause, self.path = tunnel, 1 / per_second, path
        self.patience = patience
        self.visits = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._threaded, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Asks no more, and waits for what was asked."""
        self._over.set()
        self._thread.join()

    def _threaded(self):
        with self.tunnel.inside():
            asyncio.run(self._run())

    async def _run(self):
        self._context, self._idle = self.tunnel.context(), []
        going, due = set(), time.monotonic()
        while not self._over.is_set():
            task = asyncio.ensure_future(self._visit())
            going.add(task)
            task.add_done_callback(going.discard)
            due += self.pause
            await asyncio.sleep(max(0, due - time.monotonic()))
        if going:
            await asyncio.wait(going)
        for _, writer in self._idle:
            writer.close()

    async def _visit(self):
        visit = Asked(time.monotonic())
        self.visits.append(visit)
        try:
            async with asyncio.timeout(self.patience):
                await self._ask(visit)
        except (OSError, EOFError, asyncio.TimeoutError, ValueError) as error:
            visit.error = repr(error)
        visit.ended = time.monotonic()

    async def _ask(self, visit):
        while self._idle and self._idle[-1][0].at_eof():
            self._idle.pop()[1].close()
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            where = (self.tunnel.address, self.tunnel.port)
            secured = {}
            if self.tunnel.tls:
                secured = {"ssl": self._context, "server_hostname": self.tunnel.host}
            reader, writer = await asyncio.open_connection(*where, **secured)
        try:
            ask = f"GET {self.path} HTTP/1.1\r\nhost: {self.tunnel.netloc}\r\n\r\n"
            writer.write(ask.encode())
            visit.sent = time.monotonic()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in head[1:] if line)
            visit.headers = {name.lower(): value.strip() for name, _, value in pairs}
            await reader.readexactly(int(visit.headers["content-length"]))
            visit.status = int(head[0].split()[1])
        except BaseException:
            writer.close()
            raise
        if visit.headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))

    # --- what came of it --------------------------------------------------------------------------

    def begun(self, begin=0.0, end=float("inf")):
        return [visit for visit in list(self.visits) if begin <= visit.began < end]

    def asked_before(self, moment):
        """Those whose question was on its way by then: on a busy machine a visit that has begun may not be."""
        return [visit for visit in list(self.visits) if visit.sent and visit.sent < moment]

    def all_answered(self, visits, what):
        """Checks that each got a 2xx; a sentence about them."""
        bad = [visit for visit in visits if not 200 <= (visit.status or 0) < 300]
        said = {visit.said() for visit in bad}
        check(not bad, f"{what}: {len(bad)} of {len(visits)} not answered 2xx: {sorted(said)[:5]}")
        check(visits, f"{what}: nothing was asked")
        slowest = max(visit.took for visit in visits)
        return f"{what}: {len(visits)} visits, all 2xx, the slowest {slowest:.2f} s"
