"""`wormkeyctl doctor` where things really are in the way: blocked UDP, a name that leads elsewhere, nothing."""

import json
import time

from harness import DOMAIN, check, same, until
from internet import SERVER, Internet
from registry import bed

# Takes no connections: the router in between.
ELSEWHERE = "10.9.3.1"


class Names:
    """What the client takes a tunnel's name for: a hosts file of its own, in place of the machine's."""

    def __init__(self, world, net, slug):
        self.name = f"{slug}.{DOMAIN}"
        self.file = world.folder / "hosts"
        self.lead_to(SERVER)
        mounted = f'mount --bind {self.file} /etc/hosts && exec "$@"'
        own = ["unshare", "--mount", "sh", "-c", mounted, "sh"]
        world.prefixes["client"] = [*net.client.prefix, *own]

    def lead_to(self, address):
        # In place: the daemon sees this very file.
        self.file.write_text(f"127.0.0.1 localhost\n{address} {self.name}\n")


def examined(world, code, **wanted):
    """Runs the doctor: its exit code, and how the checks named ended."""
    began = time.monotonic()
    exit_code, out, err = world.first_client.ctl_code("doctor", seconds=60)
    checks = json.loads(out)["checks"]
    found = {}
    for one in checks:
        # Of several with one name the worst.
        rank = ("ok", "warn", "fail").index
        found[one["name"]] = max(found.get(one["name"], "ok"), one["state"], key=rank)
        check(bool(one["fix"]) == (one["state"] != "ok"), f"what to do is said: {one}")
    told = json.dumps(checks, indent=1)
    for name, state in wanted.items():
        same(found.get(name), state, f"{name} in {told}")
    same(exit_code, code, f"the exit code of {told}{err}")
    return f"exit {exit_code} after {time.monotonic() - began:.1f} s"


@bed("doctor", "python")
def doctor(world):
    """Blocked UDP is a warning, a name that leads elsewhere and a server that is gone are failures."""
    net = Internet(world)
    names = Names(world, net, "app")
    net.prove_blocked_udp()
    with net.origin() as origin:
        world.open(origin.port, "--name", "app")
        client = world.first_client
        well = {"server": "ok", "dns": "ok", "tcp": "ok", "origin": "ok", "probe": "ok"}
        world.say(f"healthy: {examined(world, 0, udp='ok', clock='ok', mtu='ok', **well)}")
        before = client.show("app")["visits_total"]
        net.block_udp()

        def on_websocket():
            return client.status()["link"].get("path") == "websocket"

        until("the link is in a WebSocket", 30, on_websocket)
        world.say(f"UDP blocked: {examined(world, 0, udp='warn', **well)}")
        net.heal()
        names.lead_to(ELSEWHERE)
        wrong = {"server": "ok", "dns": "warn", "origin": "ok", "probe": "fail"}
        world.say(f"the name leads elsewhere: {examined(world, 1, **wrong)}")
        problems = " ".join(client.status()["problems"])
        check("app looks open and does not work" in problems, f"status tells: {problems!r}")
        names.lead_to(SERVER)
        examined(world, 0, **well)
        same(client.status()["problems"], [], "status tells nothing more")
        same(client.show("app")["visits_total"], before, "visits counted for all of this")
        net.black_hole()
        world.say(f"nothing passes: {examined(world, 7, server='fail', origin='ok')}")
