"""The server's wall clock is stepped under it. Only that one: its monotonic clock goes on, as it does
when somebody sets the time."""

import contextlib
import pathlib
import socket
import threading
import time

import cache
from harness import check, limit, same, until
from registry import bed


def faked(world):
    """What the server is started by, and the file whose text is the step: `+0`, `-1h`…"""
    library = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        raise cache.Unavailable("no libfaketime; as root tests/run installs faketime")
    file = world.folder / "clock"
    file.write_text("+0\n")
    words = [f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={file}", "FAKETIME_NO_CACHE=1"]
    words += ["FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]
    world.prefixes["server"] = ["env", *words]
    return file


def step(file, text):
    """Sets the clock, in one go."""
    partial = file.with_suffix(".part")
    partial.write_text(text + "\n")
    partial.rename(file)


ASK = """GET /ticks HTTP/1.1\r\nhost: {}\r\n"""
SWITCH = """connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r
sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"""
SWITCHED = b"""HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r
sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"""


class Ticking:
    """An origin that answers `/` at once, and `/ticks` without an end, some bytes at a time; after a switch of
    protocols where one is asked for."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                peer = self.socket.accept()[0]
                threading.Thread(target=self._serve, args=[peer], daemon=True).start()

    def _serve(self, peer):
        with contextlib.suppress(OSError), peer:
            head = b""
            while b"\r\n\r\n" not in head:
                part = peer.recv(4096)
                if not part:
                    return
                head += part
            if not head.startswith(b"GET /ticks "):
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                return
            switches = b"upgrade: websocket" in head.lower()
            peer.sendall(SWITCHED if switches else b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                # A text of four letters, or a chunk of them.
                peer.sendall(b"\x81\x04tick" if switches else b"4\r\ntick\r\n")
                time.sleep(0.05)


class Stream:
    """A visit of `/ticks`, as a download or as a socket: whether it goes on, and when it ended."""

    def __init__(self, tunnel, switch=""):
        self.connection = tunnel.dial(timeout=20)
        self.connection.sendall(f"{ASK.format(tunnel.netloc)}{switch}\r\n".encode())
        self.last, self.ended, self.content = 0.0, None, b""
        threading.Thread(target=self._run, daemon=True).start()
        until("the first ticks", 10, lambda: b"tick" in self.content)

    def _run(self):
        with contextlib.suppress(OSError):
            while part := self.connection.recv(4096):
                self.content += part
                self.last = time.monotonic()
        self.ended = time.monotonic()

    def goes_on(self):
        now = time.monotonic()
        until("another tick", 5, lambda: self.last > now)

    def is_cut(self, since):
        """Ended within a second of then, and not as if it were whole."""
        until("the stream is cut", limit(1), lambda: self.ended)
        check(self.ended - since < limit(1), f"cut {self.ended - since:.2f} s after it was due")
        check(b"\r\n0\r\n" not in self.content, "it ended like a whole answer")
        check(b"\x88" not in self.content.partition(b"\r\n\r\n")[2], "the origin's goodbye, which it never said")
        return self.ended - since


def over(world, tunnel, when):
    answer = world.curl(tunnel)
    same((answer.status, answer.error), (410, "tunnel_expired"), when)


@bed("clock")
def clock(world):
    """An expiry comes to the second and cuts what goes on. Steps of an hour: due is expired, and stepping
    back revives nothing, not with a restart either."""
    file = faked(world)
    world.settings["server"] = {"listen": {"tcp_ports": "21400-21419"}}
    with Ticking() as origin:
        world.first_client.open(str(origin.port), "--name", "first")
        began = time.monotonic()
        short = world.open(origin.port, "--name", "short", "--expires", "3s")
        beside = time.monotonic()
        port = world.open(f"tcp://127.0.0.1:{origin.port}", "--yes-expose", "--expires", "3s")
        opened = {"a download": (short, "", began), "a socket": (short, SWITCH, began), "tcp": (port, "", beside)}
        streams = {kind: (Stream(of, switch), at + 3) for kind, (of, switch, at) in opened.items()}
        same(world.curl(short).status, 200, "before its time")
        time.sleep(max(0, began + 2.5 - time.monotonic()))
        for stream, _ in streams.values():
            stream.goes_on()
        for kind, (stream, due) in streams.items():
            time.sleep(max(0, due - time.monotonic()))
            world.say(f"{kind} was cut {stream.is_cut(due):.2f} s after the expiry")
        over(world, short, "at its time")

        half = world.open(origin.port, "--name", "half", "--expires", "30m")
        later = world.open(origin.port, "--name", "later", "--expires", "3h")
        streams = Stream(half), Stream(later), Stream(half, SWITCH)
        step(file, "-1h")
        for tunnel, stream in zip((half, later, half), streams):
            same(world.curl(tunnel).status, 200, "an hour back nothing is due")
            stream.goes_on()
        over(world, short, "an hour back, what had expired")
        step(file, "+0")
        for tunnel, stream in zip((half, later, half), streams):
            same(world.curl(tunnel).status, 200, "as before")
            stream.goes_on()
        step(file, "+1h")
        stepped = time.monotonic()
        over(world, half, "due by a step")
        for kind, stream in (("a download", streams[0]), ("a socket", streams[2])):
            world.say(f"{kind} was cut {stream.is_cut(stepped):.2f} s after the step of an hour")
        same(world.curl(later).status, 200, "what is not due")
        streams[1].goes_on()
        for back in ("+0", "-1h"):
            step(file, back)
            over(world, half, f"stepped back to {back}")
        code, _, err = world.first_client.ctl_code("open", origin.port, "--name", "half")
        check(code == 0, f"its own user may have the name again: {err}")
        world.first_client.ctl("close", "half")

        # A clock that is wrong, but goes on, says when what was opened by it is over.
        soon = world.open(origin.port, "--name", "soon", "--expires", "2s")
        time.sleep(2.5)
        over(world, soon, "by a clock that is an hour late")
        streams[1].connection.shutdown(socket.SHUT_RDWR)
        world.server.process.stop()
        step(file, "-1h")
        world.server.start()
        until("the client is back", 20, lambda: world.curl(later).status == 200)
        for tunnel in (short, soon):
            over(world, tunnel, "after a restart an hour back")
