"""A thousand clients lose their server at once and return."""

import os
import statistics
import threading
import time

import origins
from harness import REPOSITORY, Server, Tunnel, check, limit, until
from registry import bed
from visits import Load

BACK_WITHIN = 15.0


class Fleet:
    """The clients, in one process."""

    def __init__(self, world, count, target):
        self.world, self.count = world, count
        token = world.server.ctl("invite", "--uses", str(count))["token"]
        folder = world.folder / "fleet"
        program = os.environ.get("WORMKEY_FLEET") or REPOSITORY / "target/debug/examples/fleet"
        written = world.folder / "token"
        written.write_text(token + "\n")
        with open(written) as stdin:
            words = [*world.prefixes.get("client", []), program, folder, count, target]
            self.process = world.spawn(words, "fleet", stdin=stdin)

    def lines(self, word):
        """The facts of its lines that begin so."""
        lines = [line.split() for line in self.process.text().splitlines()]
        failed = [" ".join(line) for line in lines if line[0] == "failed"]
        check(not failed, f"clients of the fleet: {failed[:3]}")
        return [line[1:] for line in lines if line[0] == word]

    def tunnels(self, seconds):
        until("all have opened", seconds, lambda: len(self.lines("open")) == self.count, every=0.5)
        world = self.world
        where = (world.certificates.ca, {}, world.address, world.inside)
        return [Tunnel(url, *where) for _, url in self.lines("open")]


def pace(load, begin, end):
    took = sorted(visit.took for visit in load.begun(begin, end))
    return statistics.median(took), took[len(took) * 95 // 100]


@bed("net-thousand")
def thousand(world):
    """kill -9 of the server under a thousand links, two hundred daily: all are back in time, spread,
    and visits to one that is back are as quick as ever."""
    count = 1000 if world.long else 200
    world.settings["server"] = {"link": None}
    world.server = Server(world).start()
    with origins.plain() as origin:
        began = time.monotonic()
        fleet = Fleet(world, count, str(origin.port))
        tunnels = fleet.tunnels(400)
        opened = time.monotonic() - began
        until("all links", 20, lambda: world.server.status()["links"] == count)
        world.say(f"{count} clients enrolled and opened in {opened:.0f} s")
        with Load(tunnels[0], 20) as load:
            time.sleep(5)
        alone = pace(load, 0, float("inf"))
        world.server.process.kill()
        heard = len(fleet.lines("up"))
        world.server.start()
        ready, ready_wall = time.monotonic(), time.time()
        slow = threading.Thread(target=until_all, args=(world, count, ready))
        slow.start()
        with Load(tunnels[0], 20) as load:
            slow.join()
            time.sleep(1)
        returned = [int(at) / 1000 - ready_wall for _, at in fleet.lines("up")[heard:]]
        check(len(returned) >= count, f"{len(returned)} of {count} links came back")
        tell(world, load, alone, sorted(returned), ready)
        same_answers(world, tunnels)


def until_all(world, count, ready):
    """Asked rarely, so that asking is not what slows it."""
    until("all links are back", 120, lambda: world.server.status()["links"] == count, every=0.25)
    world.say(f"all {count} links are back {time.monotonic() - ready:.1f} s after the server is")


def tell(world, load, alone, returned, ready):
    half, most, last = (returned[int(len(returned) * part) - 1] for part in (0.5, 0.9, 1))
    world.say(f"half of them after {half:.1f} s, nine in ten after {most:.1f} s, the last {last:.1f} s")
    world.say(load.all_answered(load.visits, "visits to one of them from when the server is back"))
    first = min(visit.ended for visit in load.visits)
    beside = pace(load, first, float("inf"))
    world.say(
        f"one visit: {alone[0] * 1000:.0f} ms ({alone[1] * 1000:.0f} at the 95th) before,"
        f" {beside[0] * 1000:.0f} ({beside[1] * 1000:.0f}) while others return"
    )
    check(last < limit(BACK_WITHIN), f"the last link came back after {last:.1f} s")
    check(beside[1] < limit(alone[1]), "visits to a tunnel that is back were slowed")


def same_answers(world, tunnels):
    for tunnel in tunnels[:: len(tunnels) // 20]:
        check(world.curl(tunnel).status == 200, f"{tunnel.url} answers")
