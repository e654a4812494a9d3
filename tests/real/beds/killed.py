"""kill -9 of the server at random instants, under writes and visits: what was promised is kept, and it is
back by itself."""

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import sqlite3
import threading
import time

import origins
from harness import MIB, Failure, Tunnel, check, limit, same, until
from registry import bed
from visits import Download, Load

# Promised names between one death and the next, and how long after the last of them it may come.
NAMES, LATEST = 6, 0.4


def dice(world):
    """Random instants that can be had again: the seed is told."""
    seed = int(os.environ.get("WORMKEY_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    world.say(f"WORMKEY_TEST_SEED={seed}")
    return random.Random(seed)


class Writer:
    """A person whose client opens tunnels one after the other and closes every third of them again."""

    def __init__(self, client, name, port):
        self.client, self.name, self.port = client, name, port
        self.promised, self.closed, self.broken = [], [], 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        for number in range(1 << 30):
            if self._over.is_set():
                return
            name = f"{self.name}-{number}"
            ask = {"target": str(self.port), "name": name, "yes_expose": True}
            if self._call("POST", "/v1/tunnels", ask) is None:
                # Nothing was promised, and nothing is asked of it.
                self.broken += 1
                self._over.wait(0.02)
            elif number % 3 == 2 and self._call("DELETE", f"/v1/tunnels/{name}") is not None:
                self.closed.append(name)
            else:
                self.promised.append(name)

    def _call(self, method, path, body=None):
        """What its client answers when it says yes."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.sock.settimeout(30)
            connection.sock.connect(str(self.client.socket))
            headers = {"content-type": "application/json"}
            connection.request(method, path, body and json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read()
            return said if answer.status < 300 else None
        return None


def as_it_died(world, names):
    """The dead server's database: sound, and every name of these is somebody's in it."""
    # A copy, because whoever looks folds the journal in.
    copy = world.folder / "died"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for file in (world.server.folder / "state").glob("server.db*"):
        shutil.copy2(file, copy)
    with contextlib.closing(sqlite3.connect(copy / "server.db")) as database:
        same(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "integrity_check")
        same(database.execute("PRAGMA foreign_key_check").fetchall(), [], "foreign_key_check")
        asked = "SELECT slug, user_id FROM tunnels JOIN users ON users.id = user_id WHERE state = 'open'"
        owned = {slug for slug, _ in database.execute(asked)}
    same(names - owned, set(), "promised, and nobody's after the kill")


def linked(daemon):
    return daemon.status()["link"]["state"] == "up"


@bed("killed-server")
def server(world):
    """The server dies among promises, a download and visits, again and again."""
    world.settings["server"] = {"tunnels": {"per_device": 4000}}
    chance, deaths = dice(world), 60 if world.long else 4
    readies, backs = [], []
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(origins.plain())
        visited = world.open(origin.port, "--name", "visited")
        people = [world.first_client, world.client("--user", "bob")]
        writers = [
            stack.enter_context(Writer(client, name, origin.port))
            for client, name in zip(people, ("alice", "bob"))
        ]
        for _ in range(deaths):
            wanted = sum(len(one.promised) for one in writers) + NAMES
            until("promises", 60, lambda: sum(len(one.promised) for one in writers) >= wanted)
            ready, back = death(world, chance, visited, writers)
            readies.append(ready)
            backs.append(back)
        for writer in writers:
            writer.__exit__()
        until("both links", 60, lambda: all(linked(client) for client in people))
        owners(world, writers)
        neighbours(world, people, writers)
    names = sum(len(one.promised) for one in writers)
    broken = sum(one.broken for one in writers)
    world.say(f"{deaths} deaths under {names} promises, {broken} openings broken off")
    world.say(f"ready after {max(readies):.2f} s at most, visits answered {max(backs):.2f} s later")
    check(max(readies) < limit(2), f"ready only after {max(readies):.2f} s")


def death(world, chance, visited, writers):
    """One of them; seconds until the server was ready, and from then until a visit was answered."""
    download = Download(visited, 1024 * MIB).start()
    download.reached(MIB // 4, 30)
    with Load(visited, 20, patience=20) as load:
        time.sleep(chance.uniform(0, LATEST))
        # Whatever was answered before the kill is promised.
        promised = {name for one in writers for name in list(one.promised)}
        world.server.process.kill()
        as_it_died(world, promised)
        began = time.monotonic()
        world.server.start()
        ready = time.monotonic()
        until("a visit is answered", 60, lambda: world.curl(visited, seconds=5).status == 200)
        back = time.monotonic()
    check(load.begun(end=began), "nobody visited")
    until("the download ends", 10, lambda: download.over)
    check(download.error, "the download of a killed server came to a whole end")
    return ready - began, back - ready


def owners(world, writers):
    """Every promised name is still its owner's, and visited; what was closed is."""
    rows = {row["slug"]: row for row in world.server.ctl("tunnels")["tunnels"]}
    for writer, user in zip(writers, ("default", "bob")):
        missing = [name for name in writer.promised if name not in rows]
        same(missing, [], f"promised to {user}, and gone")
        same({rows[name]["user"] for name in writer.promised}, {user}, "whose they are")
        states = {name: rows[name]["state"] for name in writer.closed if name in rows}
        same([name for name, state in states.items() if state == "open"], [], "closed, and open again")
        for name in (writer.promised[0], writer.promised[-1]):
            shown = writer.client.show(name)
            tunnel = Tunnel(shown["url"], world.certificates.ca, shown)
            until(f"{name} is visited", 30, lambda: world.curl(tunnel, seconds=5).status == 200)


def neighbours(world, people, writers):
    """Nobody else can have them."""
    for other, writer in zip(reversed(people), writers):
        for name in (writer.promised[0], writer.promised[len(writer.promised) // 2], writer.promised[-1]):
            code, _, said = other.ctl_code("open", writer.port, "--name", name)
            check(code != 0, f"{name} is {writer.name}'s, and {other.name} got it")
            check("name_taken" in said, said)
