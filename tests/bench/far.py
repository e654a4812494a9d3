"""Both ends far apart: 40 ms there and back, 1 % of the packets lost each way. A big download and small
requests beside it, through one tunnel."""

import contextlib
import os
import pathlib
import socket
import sys
import time

import cache
import loads
import origins
from harness import MIB, check
from internet import Namespace
from visits import Download, Load

HERE = pathlib.Path(__file__).resolve().parent
SERVER, CLIENT = "10.9.4.1", "10.9.4.2"
ONE_WAY_MS, LOSS_PERCENT = 20, 1
# Enough in a run for a 99th percentile that is not the slowest alone.
PER_SECOND = 50
WARM = 2.0
PROBES, PROBES_AT_ONCE = 4000, 10


class FarApart:
    """The two namespaces and the wire between them; the world's roles move in. What TCP makes of losses
    is the kernel's choice, so it is named."""

    def __init__(self, world, congestion):
        if os.geteuid() != 0:
            raise cache.Unavailable("network namespaces take root")
        if not pathlib.Path("/dev/net/tun").exists():
            raise cache.Unavailable("no /dev/net/tun")
        cache.program("ip", "iproute2")
        self.server, self.client = Namespace(world, "server"), Namespace(world, "client")
        words = [self.server.pid, self.client.pid, ONE_WAY_MS, LOSS_PERCENT]
        world.spawn([sys.executable, HERE / "relay.py", *words], "relay").line("carries")
        for space, own, other in ((self.server, SERVER, CLIENT), (self.client, CLIENT, SERVER)):
            space("ip", "addr", "add", own, "peer", other, "dev", "far")
            space("ip", "link", "set", "far", "up")
            route = ["dev", "far", "src", own, "congctl", congestion]
            space("ip", "route", "replace", other, *route)
        world.address, world.inside = SERVER, self.server.inside
        world.prefixes = {
            "server": self.server.prefix,
            "visitor": self.server.prefix,
            "client": self.client.prefix,
        }
        world.settings.setdefault("client", {})["link"] = None

    @contextlib.contextmanager
    def origin(self):
        with contextlib.ExitStack() as stack:
            with self.client.inside():
                made = stack.enter_context(origins.plain())
            yield made

    def prove(self):
        """That the wire is as long as it is said to be: a TCP connection takes one round trip."""
        with self.client.inside():
            listener = socket.create_server((CLIENT, 0))
        with listener, self.server.inside(), socket.socket() as plain:
            began = time.monotonic()
            plain.settimeout(10)
            plain.connect(listener.getsockname())
            took = (time.monotonic() - began) * 1000
        check(took >= 2 * ONE_WAY_MS, f"a round trip takes {took:.1f} ms only")
        lost = self._lost() / PROBES * 100
        check(LOSS_PERCENT / 3 < lost < LOSS_PERCENT * 3, f"{lost:.1f} % of the packets are lost")

    def _lost(self):
        """Of so many datagrams, a few at a time so that no queue loses any."""
        with self.client.inside():
            ear = socket.socket(type=socket.SOCK_DGRAM)
            ear.bind((CLIENT, 0))
        with self.server.inside():
            mouth = socket.socket(type=socket.SOCK_DGRAM)
        heard = 0
        with ear, mouth:
            for left in range(PROBES - 1, -1, -1):
                mouth.sendto(b"probe", ear.getsockname())
                if left % PROBES_AT_ONCE == 0:
                    # What is on its way when the last one has gone is waited for.
                    heard += _waiting(ear, 0.005 if left else 1.0)
        return PROBES - heard


def _waiting(ear, seconds):
    """How many datagrams come until none does for so long."""
    ear.settimeout(seconds)
    heard = 0
    with contextlib.suppress(TimeoutError):
        while ear.recv(16):
            heard += 1
    return heard


def beside_bulk(subject, seconds):
    """MiB a second of a download, and how long small requests take beside it, in milliseconds."""
    download = Download(subject.tunnel, 1 << 40).start()
    try:
        download.next_after(0, 20)
        time.sleep(WARM)
        began, before = time.monotonic(), download.taken
        with Load(subject.tunnel, PER_SECOND) as load:
            time.sleep(seconds)
            rate = (download.taken - before) / MIB / (time.monotonic() - began)
        download.sound()
    finally:
        download.abandon()
    bad = [visit.said() for visit in load.visits if visit.status != 200]
    if bad:
        raise loads.Failed(f"small requests: {bad[:3]}")
    took = sorted(visit.took * 1000 for visit in load.visits)
    return loads.Run(rate, {}, took[len(took) // 2], took[len(took) * 99 // 100])
