"""The server ends, by force and politely, and starts again; clients come and go a hundred times."""

import contextlib
import signal
import threading
import time

from harness import MIB, check, limit, same, until
from internet import Internet
from registry import bed
from visits import Download, Load

# The client's own, as it is installed.
KEEP_ALIVE = 5


class Watch:
    """Looks at the client's status all the time, and remembers when it changed."""

    def __init__(self, client):
        self.client = client
        self.seen = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        while not self._over.wait(0.02):
            link = self.client.status()["link"]
            now = (link["state"], link.get("generation"), link.get("last_error"))
            if not self.seen or self.seen[-1][1] != now:
                self.seen.append((time.monotonic(), now))

    def __enter__(self):
        self._thread.start()
        until("the link is up", 10, lambda: self.seen and self.seen[-1][1][0] == "up")
        self.generation = self.seen[-1][1][1]
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def changed(self, seconds):
        """When it was first not the link that it was."""

        def is_old(facts):
            return facts[0] == "up" and facts[1] == self.generation

        def probe():
            return [at for at, facts in self.seen if not is_old(facts) and at > self.seen[0][0]]

        return until("the client notices", seconds, probe)[0]


def crash(world):
    """kill -9 and start again; when it was killed, and when it was there again."""
    world.server.process.kill()
    killed = time.monotonic()
    world.server.start()
    return killed, time.monotonic()


def noticed(world, tunnel, what, promised):
    """The server crashes and returns, and visits come from then on: what they and the client see."""
    before = world.first_client.show(tunnel.slug)
    with Watch(world.first_client) as watch:
        _, ready = crash(world)
        with Load(tunnel, 20) as load:
            knew = watch.changed(promised + limit(1))
            until("a visit is answered", limit(1), lambda: load.visits and load.visits[0].ended)
            time.sleep(1)
    answered = min(visit.ended for visit in load.visits)
    world.say(f"{what}: the client knows {knew - ready:.2f} s after the server is back")
    world.say(f"{what}: a visit is answered {answered - knew:.2f} s later")
    world.say(load.all_answered(load.visits, f"{what}: 20 visits a second from when it is back"))
    check(knew - ready < promised + limit(1), "the client knew too late")
    check(answered - knew < limit(1), "its tunnel answered too late")
    after = world.first_client.show(tunnel.slug)
    for key in ("id", "slug", "url", "expires_at", "created_at"):
        same(after[key], before[key], f"{what}: {key}")


@bed("net-restart", "python")
def restart(world):
    """kill -9 of the server under a visit, and with nothing going on."""
    net = Internet(world)
    with net.origin() as origin:
        tunnel = world.open(origin.port, "--expires", "1h")
        download = Download(tunnel, 1024 * MIB).start()
        download.reached(MIB, 20)
        noticed(world, tunnel, "a download in flight", 1)
        until("the download ends", 5, lambda: download.over)
        check(download.error, "the download of a killed server came to a whole end")
        time.sleep(1)
        noticed(world, tunnel, "idle", KEEP_ALIVE)


@bed("net-sigterm", "python")
def sigterm(world):
    """SIGTERM under 200 requests a second, of the server and of the client: all that was begun is
    answered."""
    net = Internet(world)
    with net.origin() as origin:
        tunnel = world.open(origin.port)
        of_server(world, tunnel)
        of_client(world, tunnel)
        second_signal(world, tunnel)


def under_load(world, tunnel, daemon):
    """A load of slow answers, SIGTERM in the middle of it; (load, moment, exit code, seconds)."""
    wanted, pace = (10_100 if world.long else 400), 200
    with Load(tunnel, pace, "/after/300", patience=20) as load:
        until("the visits", 5 * wanted / pace, lambda: len(load.visits) >= wanted)
        check(load.begun() and not load.visits[-1].ended, "visits are under way")
        moment = time.monotonic()
        daemon.process.signal(signal.SIGTERM)
        code = daemon.process.child.wait(40)
        took = time.monotonic() - moment
    return load, moment, code, took


def of_server(world, tunnel):
    with Watch(world.first_client) as watch:
        load, moment, code, took = under_load(world, tunnel, world.server)
    same(code, 0, "the server's exit code")
    asked = load.asked_before(moment)
    under_way = [visit for visit in asked if visit.ended > moment]
    world.say(load.all_answered(asked, "asked before the server's SIGTERM"))
    world.say(f"of them {len(under_way)} under way then; the server ended after {took:.2f} s")
    errors = [facts[2] for _, facts in watch.seen if facts[2]]
    reported = [error for error in errors if "asked" in error or "drain" in error]
    check(reported, f"the client reports the drain: {errors}")
    world.say(f"the client says: {reported[0]}")
    world.server.start()
    began = time.monotonic()
    until("the tunnel is back", 20, lambda: world.curl(tunnel).status == 200)
    world.say(f"the tunnel answers {time.monotonic() - began:.2f} s after the server is back")


def of_client(world, tunnel):
    client = world.first_client
    load, moment, code, took = under_load(world, tunnel, client)
    same(code, 0, "the client's exit code")
    world.say(load.all_answered(load.asked_before(moment), "asked before the client's SIGTERM"))
    world.say(f"the client ended after {took:.2f} s")
    # The server sends it no new ones, so the answers under way are all that it waits for.
    check(took < limit(1), f"the client ended only after {took:.2f} s")
    client.start()
    until("the tunnel is back", 20, lambda: world.curl(tunnel).status == 200)


def second_signal(world, tunnel):
    """A second SIGTERM ends the server at once."""
    with Load(tunnel, 5, "/after/8000", patience=10):
        time.sleep(1)
        world.server.process.signal(signal.SIGTERM)
        time.sleep(1)
        same(world.server.process.child.poll(), None, "it waits for what is in flight")
        began = time.monotonic()
        world.server.process.signal(signal.SIGTERM)
        world.server.process.child.wait(10)
        took = time.monotonic() - began
    world.say(f"a second SIGTERM: ended after {took:.2f} s")
    check(took < limit(0.2), f"a second SIGTERM: ended only after {took:.2f} s")


# --- cycles ---------------------------------------------------------------------------------------

WARM_UP = 5
ROOM = 8 * MIB


def left_behind(daemon):
    """What a daemon has now: descriptors, threads, memory."""
    process = daemon.process
    return process.descriptors(), process.threads(), process.rss()


def visited(world, client, origin):
    """A new tunnel, 20 visits and one that is not over yet."""
    tunnel = client.open(origin.port)
    until("it answers", 20, lambda: world.curl(tunnel).status == 200)
    with Load(tunnel, 400) as load:
        until("20 visits", 10, lambda: len(load.visits) >= 20)
    load.all_answered(load.visits, "the visits of a cycle")
    endless = Download(tunnel, 1024 * MIB).start()
    endless.reached(MIB, 10)
    return tunnel, endless


def at_baseline(world, daemon, baseline, what, count):
    """Waits until descriptors are as before; memory and threads within their room."""
    with contextlib.suppress(AssertionError):
        until("descriptors", 20, lambda: left_behind(daemon)[0] <= baseline[0])
    now = left_behind(daemon)
    world.say(
        f"{count} {what}: descriptors {baseline[0]} -> {now[0]}, threads {baseline[1]} -> {now[1]},"
        f" memory {baseline[2] / MIB:.1f} -> {now[2] / MIB:.1f} MiB"
    )
    check(now[0] <= baseline[0], f"the {daemon.name} keeps {now[0] - baseline[0]} descriptors")
    check(now[1] <= baseline[1] + 2, f"the {daemon.name} keeps {now[1] - baseline[1]} threads")
    grown = now[2] - baseline[2]
    check(grown <= ROOM, f"the {daemon.name} grew by {grown / MIB:.1f} MiB")


def cycles(world, net, other, watched, hint=None):
    """Connect, open, visits, an abrupt end of the other side, again and again."""
    count = 200 if world.long else 20
    client = world.first_client
    with net.origin() as origin:

        def cycle():
            tunnel, endless = visited(world, client, origin)
            other.process.kill()
            other.start()
            if hint:
                hint()
            client.ctl("close", tunnel.slug)
            until("the link is up", 60, lambda: client.status()["link"]["state"] == "up")
            endless.abandon()
            until("the download ends", 5, lambda: endless.over)

        for _ in range(WARM_UP):
            cycle()
        time.sleep(1)
        baseline = left_behind(watched)
        for _ in range(count):
            cycle()
        what = f"deaths of the {other.role}, seen at the {watched.role}"
        at_baseline(world, watched, baseline, what, count)
    until("no link but one", 20, lambda: world.server.status()["links"] == 1)
    same(world.server.status()["visits"], 0, "visits that the server counts")


@bed("net-cycles", "python")
def clients_die(world):
    """Clients that die leave nothing behind at the server."""
    net = Internet(world)
    client = world.first_client
    cycles(world, net, client, world.server)


@bed("net-cycles-client", "python")
def servers_die(world):
    """Servers that die leave nothing behind at the client."""
    net = Internet(world)
    client = world.first_client
    # Each death within ten seconds of the last lengthens the wait; a new route ends it.
    cycles(world, net, world.server, client, hint=lambda: net.flip(hard=False))
