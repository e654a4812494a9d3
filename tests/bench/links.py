"""What links cost the server: memory while they are idle, CPU while they are idle, CPU for one that
returns with its tunnel."""

import os
import pathlib
import time

import cache
import loads
from beds.net_thousand import Fleet
from harness import until

IDLE_SECONDS = 5


def cost(world, origin, count):
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
    time.sleep(IDLE_SECONDS)
    idle = loads.cpu_seconds(server.process) - idle
    server.process.kill()
    server.start()
    began = loads.cpu_seconds(server.process)
    until("all links are back", 120, all_up, every=0.25)
    spent = loads.cpu_seconds(server.process) - began
    return {
        "links": count,
        "KiB of an idle link with its tunnel": grown / 1024 / count,
        "% of a core for all of them, idle": idle / IDLE_SECONDS * 100,
        "CPU µs of a link that returns with its tunnel": spent / count * 1e6,
    }
