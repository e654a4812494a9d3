"""Both ends far apart, 300 ms there and back: slow, byte-exact, and on UDP all the while."""

import contextlib
import os
import pathlib
import socket
import sys
import threading
import time

import cache
import origins
from harness import MIB, REPOSITORY, check, same, until
from internet import Namespace
from registry import bed
from visits import Download, Upload

SERVER, CLIENT = "10.9.5.1", "10.9.5.2"
ONE_WAY = 0.15


def far_apart(world):
    """Two namespaces with a long wire between them, which the world's roles move into; that of the client."""
    if os.geteuid() != 0:
        raise cache.Unavailable("network namespaces take root")
    if not pathlib.Path("/dev/net/tun").exists():
        raise cache.Unavailable("no /dev/net/tun")
    cache.program("ip", "iproute2")
    server, client = Namespace(world, "server"), Namespace(world, "client")
    # In user space, because not every kernel has netem.
    wire = [sys.executable, REPOSITORY / "tests/bench/relay.py", server.pid, client.pid, 1000 * ONE_WAY, 0]
    world.spawn(wire, "relay").line("carries")
    for space, own, other in ((server, SERVER, CLIENT), (client, CLIENT, SERVER)):
        space("ip", "addr", "add", own, "peer", other, "dev", "far")
        space("ip", "link", "set", "far", "up")
    world.address, world.inside = SERVER, server.inside
    world.prefixes = {"server": server.prefix, "visitor": server.prefix, "client": client.prefix}
    # As they are installed: keep-alives and all.
    for role in ("server", "client"):
        world.settings.setdefault(role, {})["link"] = None
    with client.inside():
        listener = socket.create_server((CLIENT, 0))
    with listener, server.inside(), socket.socket() as plain:
        began = time.monotonic()
        plain.settimeout(10)
        plain.connect(listener.getsockname())
        took = time.monotonic() - began
    check(took >= 2 * ONE_WAY, f"a round trip of plain TCP takes {took:.3f} s only")
    return client


class Paths:
    """What the client says of its link while a block runs."""

    def __init__(self, client):
        self.client, self.seen = client, set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        while not self._over.wait(0.05):
            link = self.client.status()["link"]
            self.seen.add((link["state"], link.get("path"), link.get("generation")))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


@bed("net-far", "python")
def far(world):
    """A visit, a download, an upload; the link stays the one that it was, and on UDP. One that comes anew
    finds UDP too."""
    inside = far_apart(world).inside
    with contextlib.ExitStack() as stack:
        with inside():
            origin = stack.enter_context(origins.plain())
        tunnel = world.open(origin.port)
        client = world.first_client
        with Paths(client) as paths:
            for _ in range(3):
                answer = world.curl(tunnel)
                same((answer.status, answer.body), (200, b"hello from the origin\n"), "a visit")
                check(answer.seconds >= 2 * ONE_WAY, f"the wire is long: {answer.seconds:.2f} s")
            world.say(f"a visit takes {answer.seconds:.2f} s")
            size = (16 if world.long else 1) * MIB
            began = time.monotonic()
            Download(tunnel, size).start().finish(120)
            down = time.monotonic() - began
            upload = Upload(tunnel, origin).start()
            began = time.monotonic()
            until("as much is sent", 120, lambda: upload.sent >= size)
            upload.finish(120)
            up = time.monotonic() - began
            world.say(f"{size // MIB} MiB down in {down:.1f} s, {upload.sent / MIB:.1f} MiB up in {up:.1f} s")
        check(len(paths.seen) == 1 and all(path == "udp" for _, path, _ in paths.seen), f"{paths.seen}")
        # A start is no reason to fall back either.
        client.process.stop()
        began = time.monotonic()
        client.start()
        until("the link is up", 30, lambda: client.status()["link"]["state"] == "up")
        world.say(f"a client that starts is linked after {time.monotonic() - began:.2f} s")
        same(client.status()["link"]["path"], "udp", "the path of a client that starts")
        same(world.curl(tunnel).status, 200, "a visit afterwards")
