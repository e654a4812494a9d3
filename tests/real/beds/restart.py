"""kill -9 of either daemon: the tunnels come back as themselves, within seconds."""

import threading
import time

import origins
from harness import check, same, until
from registry import bed

# The client hears of a restarted server at its next keep-alive (1 s here) and waits at most half a
# second before it dials; five times that, so that a busy machine passes too.
BACK_WITHIN = 7.5


def answering(world, tunnel, seconds=60):
    """Waits until the tunnel answers; how long that took."""
    began = time.monotonic()

    def answers():
        got = world.curl(tunnel, seconds=20)
        return got.status == 200 and got.body == b"hello from the origin\n"

    until("the tunnel answers again", seconds, answers)
    return time.monotonic() - began


@bed("restart")
def restart(world):
    with origins.plain() as origin:
        timed = world.open(origin.port, "--name", "timed", "--expires", "1h")
        plain = world.open(origin.port)
        client = world.first_client
        before = {one.slug: client.show(one.slug) for one in (timed, plain)}
        check(before["timed"]["expires_at"], "it ends some time")
        same(before[plain.slug]["expires_at"], None, "it does not")
        for daemon in (world.server, client):
            for _ in range(2):
                kill_and_start(world, daemon, (timed, plain), before)
        both(world, (timed, plain), before)
        same(world.server.ctl("status")["tunnels"], 2, "tunnels that the server counts")


def kill_and_start(world, daemon, tunnels, before):
    daemon.process.kill()
    began = time.monotonic()
    daemon.start()
    ready = time.monotonic() - began
    again(world, f"{daemon.name} killed", tunnels, before, ready)


def both(world, tunnels, before):
    """A power cut of both: whoever is first waits for the other."""
    world.first_client.process.kill()
    world.server.process.kill()
    client = threading.Thread(target=world.first_client.start)
    began = time.monotonic()
    client.start()
    world.server.start()
    client.join()
    again(world, "both killed", tunnels, before, time.monotonic() - began)


def again(world, what, tunnels, before, ready):
    took = max(answering(world, tunnel) for tunnel in tunnels)
    world.say(f"{what}: ready after {ready:.2f} s, answering {took:.2f} s later")
    check(took < BACK_WITHIN, f"{what}: answering only after {took:.1f} s")
    for tunnel in tunnels:
        now = world.first_client.show(tunnel.slug)
        for key in ("id", "slug", "url", "target", "created_at", "expires_at"):
            same(now[key], before[tunnel.slug][key], f"{what}: {key} of {tunnel.slug}")
        same(now["state"], "open", f"{what}: state of {tunnel.slug}")


@bed("held")
def held(world):
    """A visit that comes while the client is away waits for it, and is answered."""
    with origins.plain() as origin:
        tunnel = world.open(origin.port, "--hold", "30s")
        client = world.first_client
        # Politely, so that the server knows at once; a visit on a link that only fell silent may
        # have left for the origin and is not sent twice.
        same(client.process.stop(), 0, "the client's exit code")
        got = []
        visitor = threading.Thread(target=lambda: got.append(world.curl(tunnel)))
        visitor.start()
        until(
            "the server holds the visit",
            10,
            lambda: world.server.ctl("status")["held"] == 1,
        )
        client.start()
        visitor.join()
        same((got[0].status, got[0].body), (200, b"hello from the origin\n"), "the held visit")


@bed("close-while-away")
def close_while_away(world):
    """A tunnel that is closed while the server is away is closed there when it is back."""
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        world.server.process.kill()
        world.first_client.ctl("close", tunnel.slug)
        world.server.start()

        def closed():
            got = world.curl(tunnel, seconds=20)
            return got.status == 410 and got.error == "tunnel_closed"

        until("the server knows", 15, closed)


@bed("revoke")
def revoke(world):
    """A revoked device is cut off within a second, and its tunnels with it."""
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        devices = world.server.ctl("devices")["devices"]
        same(len(devices), 1, "devices")
        began = time.monotonic()
        world.server.ctl("revoke", devices[0]["id"])
        got = world.curl(tunnel)
        same((got.status, got.error), (410, "tunnel_closed"), "its tunnel")
        until("its link is cut", 5, lambda: world.server.ctl("status")["links"] == 0)
        took = time.monotonic() - began
        check(took < 1, f"took {took:.1f} s")
        code, _, said = world.first_client.ctl_code("open", origin.port)
        check(code in (4, 7), f"open of a revoked device: exit {code} {said}")
