"""The client's network changes under a download, an upload and a WebSocket: nobody notices."""

import contextlib
import time

from harness import MIB, check, limit
from internet import Internet
from registry import bed
from visits import Download, Echo, Upload, echo_origin

STALL = 0.3


@contextlib.contextmanager
def three_flows(world, net, size):
    """A download of `size`, an upload and an echo, all under way over one link."""
    with net.origin() as plain, net.origin(echo_origin) as echoing:
        tunnel, echoed = world.open(plain.port), world.open(echoing)
        flows = [Download(tunnel, size).start(), Upload(tunnel, plain).start(), Echo(echoed).start()]
        for flow in flows:
            flow.next_after(0, 10)
        yield flows


def under_changes(world, net, changes, megabytes):
    """Makes each (name, change) at its part of the download; asserts what the flows felt."""
    with three_flows(world, net, megabytes * MIB) as flows:
        download, moments = flows[0], []
        began = time.monotonic()
        for number, (_, change) in enumerate(changes):
            download.reached(megabytes * MIB * (number + 1) // (len(changes) + 2), 120)
            moments.append(time.monotonic())
            change()
            for flow in flows:
                flow.next_after(time.monotonic(), 60)
        for flow in flows:
            flow.finish(180)
        took = time.monotonic() - began
    world.say(f"{megabytes} MiB down, {flows[1].sent / MIB:.0f} MiB up in {took:.0f} s")
    ends = [*moments[1:], moments[-1] + 3]
    worst = {}
    for (name, _), moment, end in zip(changes, moments, ends):
        stalls = [flow.longest_stall(moment, end) for flow in flows]
        felt = ", ".join(f"{flow.what} {stall * 1000:.0f}" for flow, stall in zip(flows, stalls))
        world.say(f"longest stall, {name}: {felt} ms")
        worst[name] = max(stalls)
    check(max(worst.values()) < limit(STALL), f"the longest stall was {max(worst.values()):.2f} s")


def seen_from(net, world):
    return {address for address, _ in net.link_mapping(world.server.port)}


@bed("net-flip", "python")
def flip(world):
    """The default route goes back and forth between two uplinks; every second time the one that is
    left dies with what it carries."""
    net = Internet(world, megabits=200 if world.long else 60)
    net.prove_flips()
    seen = set()

    def flip_then(hard):
        seen.update(seen_from(net, world))
        net.flip(hard)

    count = 20 if world.long else 5
    names = [("flip, the old one dies" if n % 2 == 0 else "flip, the old one lives") for n in range(count)]
    changes = [(f"{n + 1}. {name}", lambda n=n: flip_then(n % 2 == 0)) for n, name in enumerate(names)]
    under_changes(world, net, changes, 1024 if world.long else 64)
    check(len(seen) == 2, f"the link came from both uplinks: {seen}")


@bed("net-rebind", "python")
def rebind(world):
    """The NAT gives the link another port, and another address."""
    net = Internet(world, megabits=200 if world.long else 60)
    net.prove_rebinding()
    seen = set()

    def then(change):
        seen.update(net.link_mapping(world.server.port))
        change()

    kinds = [("port", net.rebind_port), ("address", net.rebind_address)] * (10 if world.long else 3)
    changes = [(f"{n + 1}. new {kind}", lambda do=do: then(do)) for n, (kind, do) in enumerate(kinds)]
    under_changes(world, net, changes, 1024 if world.long else 64)
    check(len(seen) >= len(kinds), f"the link came from {len(seen)} places")
