"""A long life in minutes: visits and reconnects in great number, and nothing left of them."""

import re
import threading
import time

import cache
from beds.conformance import in_names
from harness import MIB, check, limit, same, until
from registry import bed

# The row that asks for this asks for ten times as much of each: an hour and more.
VISITS, RECONNECTS = 100_000, 2_000
# Clients that come and go at the same time, and visitors' connections.
CLIENTS, CONNECTIONS = 4, 8
# Before it is said what is usual.
WARM_VISITS, WARM_RECONNECTS = 5_000, 40
SECONDS = 800
# What an allocator keeps for the next time.
ROOM = 16 * MIB


@bed("soak", long=True)
def soak(world):
    over(world, VISITS, RECONNECTS)


def over(world, visits, reconnects):
    """Both at once, between two looks at what the server and a client that stays have."""
    cache.program("wrk", "wrk")
    client = world.first_client
    (client.files / "page").write_text("a page\n")
    generous = ["--rate", "50000/s burst 50000", "--visitor-rate", "50000/s burst 50000"]
    tunnel = client.open(f"file:{client.files}", "--name", "visited", *generous)
    names = world.folder / "hosts"
    names.write_text(f"{tunnel.address} {tunnel.host}\n")
    others = [world.client() for _ in range(CLIENTS)]
    used(world, tunnel, names, others, WARM_VISITS, WARM_RECONNECTS)
    settled(world, others)
    daemons = world.server, client
    before = [held(daemon) for daemon in daemons]
    began = time.monotonic()
    asked, back = used(world, tunnel, names, others, visits, reconnects)
    world.say(f"{asked} visits and {back} reconnects in {time.monotonic() - began:.0f} s")
    settled(world, others)
    for daemon, first in zip(daemons, before):
        baseline(world, daemon, first)


def used(world, tunnel, names, others, visits, reconnects):
    """Visits from several connections while each of the others dies and returns; how many of each."""
    until_when = time.monotonic() + SECONDS
    share = reconnects // len(others)
    back, failures = [0] * len(others), []

    def come_and_go(at):
        try:
            for _ in range(share):
                check(time.monotonic() < until_when, f"{back[at]} of {share} reconnects in {SECONDS} s")
                others[at].process.kill()
                others[at].start()
                until("its link", 60, lambda: others[at].status()["link"]["state"] == "up")
                back[at] += 1
        except Exception as error:  # noqa: BLE001  (told by the bed's own thread)
            failures.append(error)

    threads = [threading.Thread(target=come_and_go, args=[at], daemon=True) for at in range(len(others))]
    for thread in threads:
        thread.start()
    asked = 0
    # Both to their end: there are visits for as long as somebody reconnects.
    while asked < visits or any(thread.is_alive() for thread in threads):
        check(time.monotonic() < until_when, f"{asked} of {visits} visits in {SECONDS} s")
        asked += some_visits(tunnel, names)
    for thread in threads:
        thread.join()
    same(failures, [], "reconnects that failed")
    return asked, sum(back)


def some_visits(tunnel, names):
    """A few seconds of them, all answered; how many."""
    url = f"https://{tunnel.netloc}/page"
    said = in_names(names, ["wrk", "-t", "1", "-c", CONNECTIONS, "-d", "5s", "--timeout", "20s", url], 60)
    done = re.search(r"(\d+) requests in", said)
    check(done and "Non-2xx" not in said and "Socket errors" not in said, said)
    return int(done[1])


def settled(world, others):
    """Every link is there once, and nothing is under way."""
    until("one link each", 60, lambda: world.server.status()["links"] == len(others) + 1)
    until("no visit", limit(1), lambda: world.server.status()["visits"] == 0)
    time.sleep(2)


def held(daemon):
    process = daemon.process
    state = daemon.folder / "state"
    journal = sum(file.stat().st_size for file in state.glob("*-wal"))
    return process.descriptors(), process.threads(), process.rss(), journal


def baseline(world, daemon, before):
    """Descriptors as they were; threads, memory and the journal within their room."""
    until("the descriptors", 70, lambda: daemon.process.descriptors() <= before[0] + 1, every=0.5)
    now = held(daemon)
    kinds = ("descriptors", "threads", "memory", "journal")
    world.say(f"{daemon.role}: " + ", ".join(f"{k} {a} -> {b}" for k, a, b in zip(kinds, before, now)))
    check(now[1] <= before[1] + 2, f"the {daemon.role} keeps {now[1] - before[1]} threads")
    check(now[2] <= before[2] + ROOM, f"the {daemon.role} grew by {(now[2] - before[2]) / MIB:.1f} MiB")
    check(now[3] <= max(before[3], 8 * MIB), f"the {daemon.role}'s journal has {now[3] / MIB:.1f} MiB")
