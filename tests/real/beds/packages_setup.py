"""From two bare machines to a tunnel that strangers visit, by the commands of the manual; and the ports of
the server while it restarts, kept by systemd."""

import contextlib
import json
import pathlib
import socket
import threading
import time

from authority import Authority, Delegation
from boxes import Box, Packages
from harness import DOMAIN, REPOSITORY, Tunnel, check, same, until
from internet import SERVER, Internet
from registry import bed
from visits import Load

SETUP = ["wormkeyd", "setup", "server", "--domain", DOMAIN]
# What was promised for all of the commands.
PROMISED = 120


def machines(world, net):
    """A server's and a client's, with the package at hand, and names that lead to the server."""
    package = Packages(world).package
    for name, network in (("server", net.server), ("client", net.client)):
        box = Box(world, name, network=network)
        # Stands for DNS, which knows every name below the domain.
        names = f"{DOMAIN} wormkey-setup.{DOMAIN}"
        box.write("/etc/hosts", f"127.0.0.1 localhost\n{SERVER} {names}\n")
        yield box, box.bring(package)


def set_up(server, client, port, *words):
    """The commands, one after the other, and nobody there to answer a question. What `open` said."""
    for box, package in (server, client):
        box.run("dpkg", "-i", package)
    code, token, err = server[0].run_code(*SETUP, "--yes", *words)
    check(code == 0, f"set up: exit {code}\n{err}{server[0].journal('wormkeyd-server')[-3000:]}")
    check(token.startswith("wkj_") and token.count("\n") == 1, f"not the token alone: {token!r}")
    client[0].run("wormkeyctl", "join", "--start", "--yes", "-", stdin=token)
    return json.loads(client[0].run("wormkeyctl", "--json", "open", port, "--name", "first"))


def again(server, client, *words):
    """The same commands find nothing to do: no question, nothing changed, nothing started anew."""
    facts = ("/etc/wormkey/server.toml", "/etc/systemd/system/multi-user.target.wants")
    before = [server.run("ls", "-lR", "--time-style=full-iso", fact) for fact in facts]
    pids = server.fact("wormkeyd-server", "MainPID"), client.fact("wormkeyd-client", "MainPID")
    code, out, err = server.run_code(*SETUP, *words)
    same((code, out), (0, ""), f"set up once more: {err}")
    check("have joined already" in err, err)
    token = json.loads(server.run("wormkeyctl", "--json", "server", "invite"))["token"]
    said = client.run("wormkeyctl", "join", "--start", "--yes", "-", stdin=token + "\n")
    same(said.strip(), f"joined {DOMAIN} already", "joined once more")
    after = [server.run("ls", "-lR", "--time-style=full-iso", fact) for fact in facts]
    same(after, before, "what the second run left")
    now = server.fact("wormkeyd-server", "MainPID"), client.fact("wormkeyd-client", "MainPID")
    same(now, pids, "the daemons after the second run")


@bed("packages-setup", "python")
def setup(world):
    """Install, `setup server`, `join --start`, `open`, a visit; then restarts of the server under load."""
    net = Internet(world)
    server, client = machines(world, net)
    box = server[0]
    certificates = world.certificates
    # certbot's are root's alone, and so are these.
    for name, file in (("fullchain", certificates.leaf), ("privkey", certificates.leaf_key)):
        box.write(f"/root/{name}.pem", pathlib.Path(file).read_text(), "600")
    words = ["--cert", "/root/fullchain.pem", "--key", "/root/privkey.pem"]
    with net.origin() as origin:
        began = time.monotonic()
        answer = set_up(server, client, origin.port, *words)
        tunnel = Tunnel(answer["url"], certificates.ca, answer, SERVER, world.inside)
        same(world.curl(tunnel).status, 200, "a visit from outside")
        took = time.monotonic() - began
        world.say(f"from bare machines to a visit in {took:.1f} s")
        check(took < PROMISED, f"it took {took:.0f} s")
        again(box, client[0], *words)
        for unit, machine in (("server", box), ("client", client[0])):
            same(machine.is_enabled(f"wormkeyd-{unit}"), "enabled", f"wormkeyd-{unit}")
        moved_in(world, client[0], certificates.ca)
        restarted(world, box, tunnel, "stored-https")
        sockets(world, box, tunnel)
    box.run("dpkg", "-P", "wormkey")
    left = box.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "wormkeyd*")
    same(left, "", "units after purging")
    listening = box.run("ss", "-Hlntu")
    check(":443 " not in listening, f"somebody listens after purging:\n{listening}")


def moved_in(world, client, ca):
    """What root imports is the daemon's to read, secrets too, and nobody else's."""
    sample = client.bring(REPOSITORY / "tests/real/samples/ngrok.yml")
    done = json.loads(client.run("wormkeyctl", "--json", "import", sample, "--write"))
    client.run("wormkeyctl", "reload")
    folder = done["written"].replace(".toml", ".secrets")
    same(client.run("stat", "-c", "%U %a", folder).strip(), "wormkey 700", "the folder of secrets")

    def is_open():
        code, out, _ = client.run_code("wormkeyctl", "--json", "show", "private")
        return code == 0 and json.loads(out)["state"] == "open"

    until("the imported tunnel is open", 20, is_open)
    answer = json.loads(client.run("wormkeyctl", "--json", "show", "private"))
    tunnel = Tunnel(answer["url"], ca, answer, SERVER, world.inside)
    same(world.curl(tunnel).status, 401, "a visit without the password of ngrok's file")
    client.run("rm", done["written"])
    client.run("wormkeyctl", "reload")


class Knocks:
    """Connections one after the other, all the time; what the machine said to them."""

    def __init__(self, tunnel):
        self.tunnel, self.count, self.errors = tunnel, 0, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        with self.tunnel.inside():
            while not self._over.wait(0.005):
                self.count += 1
                try:
                    socket.create_connection((self.tunnel.address, self.tunnel.port), 5).close()
                except OSError as error:
                    self.errors.append(repr(error))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def restarted(world, box, tunnel, name):
    """`systemctl restart` while visitors come: nobody is refused, and every visit is answered."""
    before = box.fact("wormkeyd-server", "MainPID")
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(Load(tunnel, 20, patience=30))
        slow = stack.enter_context(Load(tunnel, 5, "/after/300", patience=30))
        knocks = stack.enter_context(Knocks(tunnel))
        until("visits are answered", 10, lambda: load.visits and load.visits[0].status == 200)
        box.run("systemctl", "restart", "wormkeyd-server")
        time.sleep(1)
    same(knocks.errors, [], f"of {knocks.count} connections")
    world.say(f"{knocks.count} connections over the restart, none refused")
    check(box.fact("wormkeyd-server", "MainPID") != before, "it was not restarted")
    world.say(load.all_answered(load.visits, f"restarted with sockets of {name}"))
    world.say(slow.all_answered(slow.visits, f"slow ones over it, {name}"))
    said = box.run("journalctl", "-u", "wormkeyd-server", "-o", "json", "--no-pager").splitlines()
    pid = box.fact("wormkeyd-server", "MainPID")
    lines = [line for line in map(json.loads, said) if line.get("_PID") == pid]
    took = [line for line in lines if "took a socket over" in line["MESSAGE"]]
    names = [line.get("WORMKEY_NAME") for line in took]
    same(names.count(name), 2, f"sockets of that name which the new process took over: {names}")


def sockets(world, box, tunnel):
    """With the socket units the ports are systemd's: the server starts with the first visit."""
    units = ["wormkeyd-https.socket", "wormkeyd-http.socket"]
    box.verify(*units)
    for unit in units:
        same(box.is_enabled(unit), "disabled", f"{unit} after installation")
    box.run("systemctl", "stop", "wormkeyd-server")
    box.run("systemctl", "enable", "--now", *units)
    same(box.is_active("wormkeyd-server"), "inactive", "the server before anybody comes")
    same(world.curl(tunnel).status, 200, "the visit that starts it")
    same(box.is_active("wormkeyd-server"), "active", "the server after a visit")
    words = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"host: {tunnel.host}"]
    same(box.run("curl", *words, "http://127.0.0.1/"), "308", "plain HTTP at its socket unit")
    restarted(world, box, tunnel, "https")


@bed("packages-setup-acme", "python", long=True)
def setup_acme(world):
    """The same with a wildcard from an authority: `setup server --acme`, and not a word about it besides."""
    net = Internet(world)
    server, client = machines(world, net)
    authority = Authority(world)
    box = server[0]
    # As the package makes it; what a box writes is for its root alone.
    box.run("mkdir", "-m", "755", "-p", "/etc/wormkey", "/etc/wormkey/server.d")
    box.write("/etc/wormkey/authority.pem", pathlib.Path(authority.root).read_text())
    # Let's Encrypt is not to be had here; this is all that differs from what a person does.
    ca = f'[acme]\nca = ["{authority.url}"]\nroot = "/etc/wormkey/authority.pem"\ndns.wait = "1s"\n'
    box.write("/etc/wormkey/server.d/authority.toml", ca)
    with contextlib.ExitStack() as stack:
        # Where the resolver asks: the server's own name server, at port 53 of its machine.
        with net.server.inside():
            delegation = stack.enter_context(Delegation(53, authority.dns))
        authority.start(443, resolver=delegation.port)
        origin = stack.enter_context(net.origin())
        began = time.monotonic()
        answer = set_up(server, client, origin.port, "--acme")
        tunnel = Tunnel(answer["url"], authority.issuer_file(), answer, SERVER, world.inside)
        until("a verified visit", PROMISED, lambda: world.curl(tunnel).status == 200, every=0.5)
        took = time.monotonic() - began
        world.say(f"from bare machines to a visit with a certificate of an authority in {took:.1f} s")
        check(took < PROMISED, f"it took {took:.0f} s")
        again(box, client[0], "--acme")
