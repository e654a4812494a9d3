"""Two users of one server. One of them is hostile, at ten times each of his limits at once; the other
must not notice."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import statistics
import sys
import time

import cache
import origins
from harness import DOMAIN, check, same, until
from registry import bed
from visits import Load

# What the operator lets anybody have, and the hostile user asks for ten times as much.
VISITS, STRANGE, TUNNELS, CONNECTIONS, FLOWS = 5, 3, 10, 8, 8
LIMITS = {
    "visitor_rate": f"{VISITS}/s burst {VISITS}",
    "unknown_hosts": f"{STRANGE}/s burst {STRANGE}",
    "user_tunnels": TUNNELS,
}
# Begun in a second. Of connections and flows it is the number that is limited: each stays two seconds.
RATES = {
    "visits": 10 * VISITS,
    "handshakes": 10 * STRANGE,
    "connections": 5 * CONNECTIONS,
    "datagrams": 500,
    "initials": 500,
    "tunnels": 10,
    "calls": 10,
}
# What must be seen of each, so that the attack was one.
REFUSED = {
    "visits": "429",
    "handshakes": "429",
    "connections": "ConnectionResetError",
    "tunnels": "429",
}
# What the server may spend on refusing, of one processor.
SPENT = 0.1
POLITE = 40


class Attacker:
    """The program, and the file that says when. It has a machine of its own, as far as there are two
    processors: what an attack costs him who attacks is not what is measured."""

    def __init__(self, world):
        self.flag, plan = world.folder / "attack", world.folder / "plan"
        script = pathlib.Path(__file__).parent.parent / "attacks.py"
        words = [*pinned(1), sys.executable, script, self.flag, plan]
        self.process = world.spawn(words, "attacks")
        target = f"127.0.0.1:{self.process.line(r'^origin (.*)$')[1]}"
        client = world.client("--user", "mallory")
        opened = client.open(target)
        told = {
            "port": opened.port,
            "host": opened.host,
            "slug": opened.slug,
            "domain": DOMAIN,
            "socket": str(client.socket),
            "target": target,
            "tcp": client.open(f"tcp://{target}", "--yes-expose").port,
            "udp": client.open("udp://127.0.0.1:9", "--yes-expose").port,
            "flows": 10 * FLOWS,
            "rates": RATES,
        }
        partial = world.folder / "plan.part"
        partial.write_text(json.dumps(told))
        partial.rename(plan)
        self.process.line(r"^ready")

    def __enter__(self):
        self.flag.touch()

    def __exit__(self, *_):
        self.flag.unlink()

    def told(self):
        self.process.stop()
        return json.loads(self.process.line(r"^told (.*)$")[1])


def pinned(processor):
    """What a program is started by, to run on one processor."""
    return [cache.program("taskset", "util-linux"), "-c", str(processor)]


def spent(process):
    """Seconds of processor time that a process has used."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def steady(tunnel, seconds):
    """(median seconds, answered in time of those that were due) of visits at a fixed pace."""
    with Load(tunnel, POLITE) as load:
        time.sleep(seconds)
    visits = load.begun()
    load.all_answered(visits, "polite visits")
    return statistics.median(visit.took for visit in visits), len(visits) / seconds / POLITE


def flat_out(tunnel, seconds, connections=2):
    """Visits a second, one after the other on each of some connections."""
    over = time.monotonic() + seconds

    def visit(_):
        connection, count = http.client.HTTPConnection(tunnel.netloc), 0
        with contextlib.closing(connection):
            connection.sock = tunnel.dial()
            while time.monotonic() < over:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                same(answer.status, 200, "a polite visit")
                count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        return sum(pool.map(visit, range(connections))) / seconds


@bed("hostile")
def hostile(world):
    """Quiet and attacked seconds take turns, so that what else the machine does weighs on both."""
    turns, seconds = (8, 4) if world.long else (3, 0.7)
    if len(os.sched_getaffinity(0)) < 2:
        raise cache.Unavailable("the two users need a processor each")
    world.settings["server"] = {
        "listen": {"tcp_ports": "21200-21399"},
        "limits": LIMITS,
        "tunnels": {"tcp_connections": CONNECTIONS, "udp_flows": FLOWS},
    }
    world.prefixes = {"server": pinned(0), "client": pinned(0)}
    polite = world.first_client
    world.prefixes["client"] = pinned(1)
    attacker = Attacker(world)
    world.undo.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
    os.sched_setaffinity(0, {0})
    with origins.plain() as origin:
        # A person's own limits are his own affair: generous here, to be measured against.
        tunnel = polite.open(origin.port, "--visitor-rate", "5000/s", "--rate", "5000/s")
        steady(tunnel, 0.5)
        quiet, attacked = Measured(world, polite), Measured(world, polite)
        for _ in range(turns):
            quiet.take(tunnel, seconds)
            with attacker:
                time.sleep(0.3)
                attacked.take(tunnel, seconds)
        judged(world, attacker.told(), quiet.medians(), attacked.medians())


class Measured:
    """What the polite user got in each of some spells, and what they cost the server."""

    def __init__(self, world, client):
        self.server, self.client = world.server.process, client.process
        self.spells = []

    def take(self, tunnel, seconds):
        before = spent(self.server)
        took, share = steady(tunnel, seconds)
        cost = (spent(self.server) - before) / seconds
        before = spent(self.server) + spent(self.client)
        rate = flat_out(tunnel, seconds)
        used = spent(self.server) + spent(self.client) - before
        self.spells.append((took, share, cost, rate, rate * seconds / used))

    def medians(self):
        return [statistics.median(column) for column in zip(*self.spells)]


def judged(world, told, quiet, attacked):
    world.say(", ".join(f"{kind} {of['said']}" for kind, of in told.items()))
    took, share, cost, rate, worth = (f"{a:.3g} quiet, {b:.3g} attacked" for a, b in zip(quiet, attacked))
    world.say(f"median seconds of {POLITE} visits a second: {took}; of its rate it got {share}")
    world.say(f"visits a second as fast as it can: {rate}")
    world.say(f"of them for each processor second of the daemons: {worth}")
    world.say(f"processor seconds a second of the server under {POLITE} visits a second: {cost}")
    for kind, word in REFUSED.items():
        check(told[kind]["said"].get(word), f"{kind} that were refused: {told[kind]}")
    check(attacked[1] >= 0.9, f"the polite user got {attacked[1]:.2f} of his rate")
    allowed = max(2 * quiet[0], 0.02)
    check(attacked[0] < allowed, f"a polite visit took {attacked[0]:.4f} s, {quiet[0]:.4f} s before")
    check(attacked[2] - quiet[2] < SPENT, f"the attack costs the server {cost}")
    # How fast "as fast as he can" is depends on what else the machine does, so it is only told; what a processor second of the
    # daemons is worth to him hardly does, and less so the longer the spells are.
    kept = 0.9 if world.long else 0.7
    check(attacked[4] >= kept * quiet[4], f"visits for a processor second: {worth}")
