"""Streams that run through a trial and notice when they are cut, go wrong, or stand still."""

import base64
import contextlib
import http.client
import itertools
import os
import socket
import threading
import time

from harness import check, same
from origins import read_head
from visits import Flow

PAUSE = 0.05


class Stream(Flow):
    """One connection that ought to outlive every trial."""

    def __init__(self, tunnel):
        super().__init__()
        self.tunnel, self.leaving = tunnel, False
        self.connection = tunnel.dial(timeout=10)
        self.connection.settimeout(None)

    def ask(self, path, *lines):
        head = [f"GET {path} HTTP/1.1", f"host: {self.tunnel.netloc}", *lines, "", ""]
        self.connection.sendall("\r\n".join(head).encode())
        return read_head(self.connection).split()[1]

    def leave(self):
        """Ends it from this side; not a cut."""
        self.leaving = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self.connection.close()

    def heard_since(self, moment):
        return bool(self.arrivals) and self.arrivals[-1] > moment

    def cut(self, moment):
        """Ended before it was to, or silent since `moment`."""
        return self.error is not None or not self.heard_since(moment)


class Ticks(Stream):
    """Server-sent events, numbered."""

    what = "ticks"

    def _run(self):
        connection = http.client.HTTPConnection(self.tunnel.netloc)
        connection.sock = self.connection
        connection.request("GET", "/ticks")
        answer = connection.getresponse()
        same(answer.status, 200, "the status of the ticks")
        # Lines may lie across the pieces of a chunked body.
        said = (line[6:].strip() for line in answer if line.startswith(b"data: "))
        for number, got in zip(itertools.count(), said):
            same(got, str(number).encode(), "a tick")
            self.arrived()
        check(self.leaving, "the ticks ended")


class Echo(Stream):
    """A WebSocket that is spoken to all the time."""

    what = "echo"

    def _run(self):
        key = base64.b64encode(os.urandom(16)).decode()
        words = ["connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13"]
        status = self.ask("/echo", *words, f"sec-websocket-key: {key}")
        same(status, "101", "the status of the echo")
        threading.Thread(target=self._speak, daemon=True).start()
        for number in itertools.count():
            got = self._message()
            if got is None:
                return check(self.leaving, "the echo ended")
            same(got, f"{number:08}".encode(), "an echo")
            self.arrived()

    def _speak(self):
        with contextlib.suppress(OSError):
            for number in itertools.count():
                text = f"{number:08}".encode()
                # Masked with zeros, which leaves it as it is.
                self.connection.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
                time.sleep(PAUSE)

    def _message(self):
        whole = b""
        while len(whole) < 10:
            part = self.connection.recv(10 - len(whole))
            if not part:
                return None
            whole += part
        return whole[2:]


def quietest(streams, begin, end):
    """The longest silence of any of them, in seconds; None when there are none."""
    return max((one.longest_stall(begin, end) for one in streams), default=None)
