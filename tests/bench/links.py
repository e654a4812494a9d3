"""What links cost the server: memory while they are idle, CPU while they are idle, CPU for one that
returns with its tunnel, and for one that returns without any."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import cache
import harness
import loads
import sides
from beds.net_thousand import Fleet
from harness import check, until
from internet import Namespace

IDLE_SECONDS = 5
TUNNELS = 400
# Of the bare ones, whose keep-alive is what it is where nobody has set it: two of them.
BARE_IDLE_SECONDS = 10
# Of both in a sample.
SAMPLE_SECONDS = 1
# All that is done with them, at most.
BARE_WITHIN = 60
# As between most clients and servers. On loopback QUIC finds out that far larger packets pass, and keeps
# room for one of them.
MTU = 1500


def cost(world, origin, count, seconds=IDLE_SECONDS):
    """{what: figure} of so many clients with a link and a tunnel each, in a process of their own."""
    if not pathlib.Path(os.environ["WORMKEY_FLEET"]).exists():
        raise cache.Unavailable("no fleet: cargo build --release --example fleet")
    server = world.server
    others, before = server.status()["links"], loads.rss_bytes(server.process)
    Fleet(world, count, str(origin.plain)).tunnels(count)

    def all_up():
        return server.status()["links"] >= count + others

    until("all links", 60, all_up, every=0.25)
    time.sleep(1)
    grown = loads.rss_bytes(server.process) - before
    idle = loads.cpu_seconds(server.process)
    time.sleep(seconds)
    idle = loads.cpu_seconds(server.process) - idle
    tunnel = _tunnels(world, origin)
    server.process.kill()
    server.start()
    until("all links are back", 120, all_up, every=0.25)
    spent = loads.cpu_seconds(server.process)
    return {
        "links": count,
        "KiB of an idle tunnel": tunnel / 1024,
        "KiB of an idle link with its tunnel": grown / 1024 / count,
        "% of a core for all of them, idle": idle / seconds * 100,
        "CPU µs of a link that returns with its tunnel, the server's start included": spent / count * 1e6,
    }


def _tunnels(world, origin):
    """Bytes of one more idle tunnel of one client."""
    used = []
    # The first ones bring what is there once.
    for count in (TUNNELS // 5, TUNNELS):
        for _ in range(count):
            world.first_client.ctl("open", str(origin.plain), "--yes-expose")
        time.sleep(1)
        used.append(loads.rss_bytes(world.server.process))
    return (used[1] - used[0]) / TUNNELS


def bare(count, seconds=BARE_IDLE_SECONDS):
    """{what: figure} of so many links without tunnels, at a server that has nothing else to do."""
    program = pathlib.Path(os.environ["WORMKEY_LINKS"])
    if not program.exists():
        raise cache.Unavailable("no links: cargo build --release --example links")
    if os.geteuid() != 0:
        raise cache.Unavailable(f"a loopback whose packets are of {MTU} bytes takes root")
    with harness.World(tempfile.mkdtemp(prefix="wk-links-")) as world:
        world.log_level = "warn"
        sides.unlimited(world)
        world.settings["server"]["link"] = None
        net = Namespace(world, "links")
        net("ip", "link", "set", "lo", "mtu", MTU)
        world.prefixes["server"] = [*net.prefix]
        server = world.server = harness.Server(world).start()
        with _Bare(net, program, server.invite("--uses", str(count)), count) as links:
            return _measured(server, links, count, seconds)


def _measured(server, links, count, seconds):
    spent = _Spent(server.process)
    before = loads.rss_bytes(server.process)
    links.say("dial")
    time.sleep(2)
    grown = loads.rss_bytes(server.process) - before
    new = spent.since()
    time.sleep(seconds)
    idle = spent.since()
    links.say("part")
    until("all links have gone", 30, lambda: server.status()["links"] == 0, every=0.25)
    spent.since()
    links.say("dial")
    again = spent.since()
    return {
        "bare links": count,
        "KiB of an idle bare link": grown / 1024 / count,
        "% of a core for all bare links, idle": idle / seconds * 100,
        "CPU µs of a bare link that enrols": new / count * 1e6,
        "CPU µs of a bare link that returns": again / count * 1e6,
    }


class _Spent:
    """CPU seconds of a process since it was last asked for."""

    def __init__(self, process):
        self.process, self.at = process, loads.cpu_seconds(process)

    def since(self):
        before, self.at = self.at, loads.cpu_seconds(self.process)
        return self.at - before


class _Bare:
    """The other ends, in one process, which does one thing after the other."""

    def __init__(self, net, program, token, count):
        self.until = time.monotonic() + BARE_WITHIN
        words = [*net.prefix, program, str(count)]
        self.child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, bufsize=1
        )
        self.child.stdin.write(token + "\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()

    def say(self, word):
        """Waits until it is done."""
        self.child.stdin.write(word + "\n")
        with contextlib.closing(_Alarm(self.until, self.child)):
            said = self.child.stdout.readline()
        check(said, f"the links ended at {word}, or took more than {BARE_WITHIN} s")


class _Alarm:
    """Ends a child at a time, unless it is closed before."""

    def __init__(self, at, child):
        self._timer = threading.Timer(max(0.0, at - time.monotonic()), child.kill)
        self._timer.start()

    def close(self):
        self._timer.cancel()
