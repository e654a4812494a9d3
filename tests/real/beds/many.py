"""Many tunnels, many visitors: nobody ever sees another's content; nobody waits for the slow."""

import concurrent.futures
import http.client
import json
import pathlib
import random
import statistics
import sys
import time
import uuid

import origins
from harness import MIB, PeakRss, check, same
from registry import bed

CLIENTS, TUNNELS_EACH, VISITORS, VISITS_EACH = 20, 10, 64, 50
STALLED = 40


class Visitor:
    """A kept-alive HTTP/1.1 connection to one tunnel."""

    def __init__(self, tunnel):
        self.connection = http.client.HTTPConnection(tunnel.netloc)
        self.connection.sock = tunnel.dial(timeout=30)

    def get(self, path, **headers):
        self.connection.request("GET", path, headers=headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def close(self):
        self.connection.close()


@bed("many")
def many(world):
    """200 tunnels of 20 clients under 64 visitors."""
    # All these visitors have one address, and open connections faster than one person would.
    world.settings["server"] = {"limits": {"handshakes": "10000/s burst 100000"}}
    total = CLIENTS * TUNNELS_EACH
    script = pathlib.Path(__file__).parent.parent / "pages" / "named_origins.py"
    program = world.spawn([sys.executable, script, total], "origins")
    ports = program.line(r"^ports (.*)$")[1].split()
    began = time.monotonic()
    # The first one starts the server, for the others to join.
    first = world.first_client
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clients = [first, *pool.map(lambda _: world.client(), range(CLIENTS - 1))]
        owners = [client for client in clients for _ in range(TUNNELS_EACH)]
        tunnels = list(pool.map(lambda one: one[0].open(one[1]), zip(owners, ports)))
    opened = time.monotonic() - began
    same(len({tunnel.slug for tunnel in tunnels}), total, "names")
    same(world.server.ctl("status")["tunnels"], total, "tunnels that the server counts")

    def visit(number):
        """Wanders from tunnel to tunnel with up to eight connections; how many answers came."""
        chance, connections = random.Random(number), {}
        for _ in range(VISITS_EACH):
            index = chance.randrange(total)
            if index not in connections and len(connections) == 8:
                connections.pop(next(iter(connections))).close()
            if index not in connections:
                connections[index] = Visitor(tunnels[index])
            nonce = uuid.uuid4().hex
            expected = (200, f"origin {index} {nonce} {tunnels[index].netloc}\n".encode() * 100)
            got = connections[index].get(f"/{nonce}")
            check(got == expected, f"asked {index} for {nonce}, got {got[0]} {got[1][:200]!r}")
        for visitor in connections.values():
            visitor.close()
        return VISITS_EACH

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(VISITORS) as pool:
        answered = sum(pool.map(visit, range(VISITORS)))
    took = time.monotonic() - began
    same(answered, VISITORS * VISITS_EACH, "answers")
    world.say(f"{total} tunnels in {opened:.1f} s; {answered} visits in {took:.1f} s")


def _pace(tunnel):
    """(median seconds of a small answer, seconds of 8 MiB) over a connection of its own."""
    visitor = Visitor(tunnel)
    took = []
    for _ in range(20):
        began = time.monotonic()
        same(visitor.get("/")[0], 200, "a small answer")
        took.append(time.monotonic() - began)
    began = time.monotonic()
    status, body = visitor.get(f"/bytes/{8 * MIB}")
    same((status, len(body)), (200, 8 * MIB), "a large answer")
    large = time.monotonic() - began
    visitor.close()
    return statistics.median(took), large


@bed("stalled", direct=True)
def stalled(world):
    """40 visitors of a tunnel stop reading in the middle of a download; the next is not slower."""
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        alone = _pace(tunnel)
        readers = []
        daemons = {} if world.direct else world.daemons()
        try:
            with PeakRss(**daemons) as memory:
                for _ in range(STALLED):
                    reader = tunnel.dial(rcvbuf=65536)
                    readers.append(reader)
                    asked = f"GET /bytes/{256 * MIB} HTTP/1.1\r\nhost: {tunnel.netloc}\r\n\r\n"
                    reader.sendall(asked.encode())
                    same(origins.read_head(reader).split()[1], "200", "a download begins")
                    left = MIB
                    while left > 0:
                        part = reader.recv(min(left, 65536))
                        check(part, "a download ended early")
                        left -= len(part)
                beside = _pace(tunnel)
        finally:
            for reader in readers:
                reader.close()
        for what, before, now in zip(("a small answer", "8 MiB"), alone, beside):
            world.say(f"{what}: {before * 1000:.1f} ms alone, {now * 1000:.1f} ms beside 40 stalled")
            check(now <= max(5 * before, 2), f"{what}: {before:.3f} s alone, now {now:.3f} s")
        if world.direct:
            return
        world.say(memory.said())
        for name, grown in memory.growth().items():
            check(grown <= 128 * MIB, f"the {name} grew by {grown / MIB:.1f} MiB")
        # What the stalled ones held is given back once they have left.
        fresh = _pace(tunnel)
        check(fresh[1] <= max(5 * alone[1], 2), f"8 MiB took {fresh[1]:.3f} s afterwards")


@bed("huge", direct=True)
def huge(world):
    """A body that no memory holds, down and up; with --long of ten gigabytes each way."""
    size = 10 * 1024 * MIB if world.long else 128 * MIB
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        daemons = {} if world.direct else world.daemons()
        with PeakRss(**daemons) as memory:
            began = time.monotonic()
            same(_taken(tunnel, size), size, "bytes that came down")
            down = time.monotonic() - began
            began = time.monotonic()
            same(_given(tunnel, size), size, "bytes that went up")
            up = time.monotonic() - began
        rates = [f"{size / MIB / took:.0f} MiB/s" for took in (down, up)]
        world.say(f"{size // MIB} MiB: {rates[0]} down, {rates[1]} up; {memory.said()}")
        for name, grown in memory.growth().items():
            check(grown <= 32 * MIB, f"the {name} grew by {grown / MIB:.1f} MiB")


def _taken(tunnel, size):
    """How many bytes of a download arrive."""
    with tunnel.dial(timeout=60) as connection:
        ask = f"GET /bytes/{size} HTTP/1.1\r\nhost: {tunnel.netloc}\r\nconnection: close\r\n\r\n"
        connection.sendall(ask.encode())
        same(origins.read_head(connection).split()[1], "200", "the status")
        room, taken = bytearray(MIB), 0
        while taken < size and (count := connection.recv_into(room)):
            taken += count
    return taken


def _given(tunnel, size):
    """How many bytes of an upload the origin gets."""
    connection = http.client.HTTPConnection(tunnel.netloc)
    connection.sock = tunnel.dial(timeout=60)
    part = origins.BLOCK
    parts = (part for _ in range(size // len(part)))
    connection.request("POST", "/", body=parts, headers={"content-length": str(size)})
    answer = connection.getresponse()
    same(answer.status, 200, "the upload's status")
    said = json.loads(answer.read())
    connection.close()
    return said["size"]
