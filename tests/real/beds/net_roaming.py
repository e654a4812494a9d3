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
    changes = []
    for number in range(count):
        hard = number % 2 == 0
        name = f"{number + 1}. flip, the old one {'dies' if hard else 'lives'}"
        changes.append((name, lambda hard=hard: flip_then(hard)))
    under_changes(world, net, changes, 1024 if world.long else 64)
    check(len(seen) == 2, f"the link came from both uplinks: {seen}")


def late_flips(world, net, flows, what):
    """The old uplink is dead for a while before the route moves; the worst time from the move to the
    next byte of each."""
    worst = 0
    for number in range(10 if world.long else 3):
        net.heal()
        time.sleep(2)
        net.flip(hard=True, gap=1)
        moved = time.monotonic()
        took = [flow.next_after(moved, 60) for flow in flows]
        felt = ", ".join(f"{flow.what} {one * 1000:.0f}" for flow, one in zip(flows, took))
        world.say(f"{what}, {number + 1}. move a second after its uplink died: {felt} ms after it")
        worst = max(worst, *took)
    return worst


@bed("net-flip-late", "python")
def flip_late(world):
    """A second passes between the death of an uplink and the route to the other: with data each way,
    and while the client only takes in, when it has nothing to say from its new address by itself."""
    net = Internet(world, megabits=60)
    net.prove_flips()
    with three_flows(world, net, 16 * 1024 * MIB) as flows:
        worst = late_flips(world, net, flows, "all three")
        for flow in flows[1:]:
            flow.finish(60)
        flows[0].abandon()
    with net.origin() as plain:
        upload = Upload(world.open(plain.port), plain).start()
        upload.next_after(0, 10)
        worst = max(worst, late_flips(world, net, [upload], "an upload alone"))
        upload.finish(60)
    check(worst < limit(STALL), f"the first new byte came {worst:.2f} s after a move")


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
