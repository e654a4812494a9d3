"""The packages on machines with a real systemd: installed, started, reloaded, killed, stalled, upgraded
under load, rebooted, removed and purged; a server's machine and a client's, with a NAT between them."""

import contextlib
import json
import pathlib
import time

from boxes import Box, Packages
from harness import DOMAIN, Tunnel, check, limit, same, until
from internet import SERVER, Internet
from registry import bed
from visits import Load

UNITS = ("wormkeyd", "wormkeyd-server", "wormkeyd-client")
BAD = 'domain = "t.wormkey.test"\nnonsense = true\n'
CREDENTIALS = "/etc/systemd/system/wormkeyd-server.service.d/tls.conf"


@bed("packages", "python")
def story(world):
    """A server and a client from nothing to purged, on Debian 12."""
    whole_story(world, "bookworm")


@bed("packages-trixie", "python", long=True)
def story_on_trixie(world):
    """The same on Debian 13."""
    whole_story(world, "trixie")


def whole_story(world, suite):
    net = Internet(world)
    packages = Packages(world)
    later = packages.later_deb("0.1.1-1")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        server = Box(world, "server", suite, net.server)
        client = Box(world, "client", suite, net.client)
        world.say(f"two machines booted after {time.monotonic() - began:.1f} s")
        for box in (server, client):
            installed(box, packages.package)
        unconfigured(server)
        configured(world, server)
        started(server, "server")
        started(client, "client")
        stands_for_the_role(client, "wormkeyd-client")
        side_by_side(server)
        who_may(client)
        origin = stack.enter_context(net.origin())
        tunnel = opened(world, server, client, origin.port)
        reloaded(world, server, "server.toml", "wormkeyd-server")
        reloaded(world, client, "client.toml", "wormkeyd-client")
        killed(world, server, client, tunnel)
        stalled(world, server, tunnel)
        upgraded(world, server, client, tunnel, later)
        rebooted(world, server, client, tunnel)
        removed(server, "server")
        removed(client, "client")


def visited(world, tunnel, what, seconds=30):
    """Waits until the tunnel answers strangers; how long that took."""
    began = time.monotonic()
    until(what, seconds, lambda: world.curl(tunnel, seconds=5).status == 200, every=0.1)
    return time.monotonic() - began


def installed(box, package):
    """Nothing runs, and nothing would after a reboot."""
    box.run("dpkg", "-i", box.bring(package))
    for unit in UNITS:
        same(box.is_enabled(unit), "disabled", f"{unit} after installation")
        same(box.is_active(unit), "inactive", f"{unit} after installation")
    same(box.run("id", "-gn", "wormkey").strip(), "wormkey", "the group of the user wormkey")
    box.verify(*[f"{unit}.service" for unit in UNITS])
    box.run("systemctl", "preset", *UNITS)
    for unit in UNITS:
        same(box.is_enabled(unit), "disabled", f"{unit} after the machine's presets")


def unconfigured(box):
    """A server without its file fails once, says what to do, and does not try again."""
    code, _, _ = box.run_code("systemctl", "start", "wormkeyd-server")
    check(code != 0, "a server without a configuration started")
    same(box.fact("wormkeyd-server", "ExecMainStatus"), "78", "its exit code")
    same(box.fact("wormkeyd-server", "NRestarts"), "0", "its restarts")
    said = box.journal("wormkeyd-server")
    check('domain = "tunnel.example.com"' in said, f"it does not say what to write:\n{said}")
    box.run("systemctl", "reset-failed", "wormkeyd-server")


def configured(world, box):
    certificates = world.certificates
    box.write("/etc/wormkey/fullchain.pem", pathlib.Path(certificates.leaf).read_text())
    # Root's alone: the daemon gets it as a credential, in the way that the unit tells of.
    box.write("/etc/wormkey/privkey.pem", pathlib.Path(certificates.leaf_key).read_text(), "600")
    box.write(CREDENTIALS, "[Service]\nLoadCredential=privkey.pem:/etc/wormkey/privkey.pem\n")
    box.run("systemctl", "daemon-reload")
    box.write("/etc/wormkey/server.toml", server_toml())


def server_toml(hold="10s"):
    return f"""domain = "{DOMAIN}"
[listen]
advertise = ["{SERVER}:443"]
[tls]
mode = "files"
cert = "/etc/wormkey/fullchain.pem"
key = "/run/credentials/wormkeyd-server.service/privkey.pem"
[tunnels]
hold = "{hold}"
"""


def started(box, role):
    """`enable --now wormkeyd` starts the role that is configured, which is READY and not root."""
    unit = f"wormkeyd-{role}"
    box.run("systemctl", "enable", "--now", "wormkeyd")
    same(box.is_active(unit), "active", f"{unit} after enable --now wormkeyd")
    other = "wormkeyd-client" if role == "server" else "wormkeyd-server"
    same(box.is_active(other), "inactive", other)
    pid = box.fact(unit, "MainPID")
    status = box.run("cat", f"/proc/{pid}/status")
    uid = box.run("id", "-u", "wormkey").strip()
    check(f"Uid:\t{uid}\t" in status, f"{unit} is not wormkey's:\n{status}")
    allowed = "0000000000000400" if role == "server" else "0000000000000000"
    for fact in (f"CapEff:\t{allowed}", "NoNewPrivs:\t1", "Seccomp:\t2"):
        check(fact in status, f"{unit} may more than it needs, not {fact!r}:\n{status}")
    same(box.run("stat", "-c", "%U %a", "/var/lib/wormkey").strip(), "wormkey 700", "the state's folder")
    ctl = ["wormkeyctl", "--json", *(["server"] if role == "server" else []), "status"]
    check(json.loads(box.run(*ctl)), "the admin socket answers root at once, because it is READY")
    if role == "server":
        listening = box.run("ss", "-Hlntu")
        for port in ("80", "443"):
            check(f":{port} " in listening, f"nothing listens at {port}:\n{listening}")


def stands_for_the_role(box, unit):
    """What is done to wormkeyd.service is done to the role."""
    box.run("systemctl", "stop", "wormkeyd")
    same(box.is_active(unit), "inactive", f"{unit} after stop wormkeyd")
    box.run("systemctl", "start", "wormkeyd")
    before = box.fact(unit, "MainPID")
    box.run("systemctl", "restart", "wormkeyd")
    until(f"{unit} after restart wormkeyd", 20, lambda: box.is_active(unit) == "active")
    check(box.fact(unit, "MainPID") not in (before, "0"), "restart wormkeyd left the role's process")


def side_by_side(server):
    """Both roles on one machine: the end of one takes nothing from the other."""
    server.run("systemctl", "start", "wormkeyd-client")
    server.run("wormkeyctl", "status")
    server.run("systemctl", "stop", "wormkeyd-client")
    server.run("wormkeyctl", "server", "status")


def who_may(box):
    """Members of the group use the daemon without sudo, others do not."""
    box.run("useradd", "--groups", "wormkey", "ada")
    box.run("useradd", "bob")
    for person, expected in (("ada", 0), ("bob", 4)):
        prefix = ["setpriv", f"--reuid={person}", f"--regid={person}", "--init-groups"]
        code, out, err = box.run_code(*prefix, "wormkeyctl", "status")
        same(code, expected, f"what wormkeyctl ends with for {person} ({out}{err})")


def opened(world, server, client, port):
    """A tunnel from the client's machine, visited from outside."""
    token = json.loads(server.run("wormkeyctl", "--json", "server", "invite"))["token"]
    client.run("wormkeyctl", "join", "-", stdin=token + "\n")
    answer = json.loads(client.run("wormkeyctl", "--json", "open", port, "--name", "packaged"))
    tunnel = Tunnel(answer["url"], world.certificates.ca, answer, SERVER, world.inside)
    same(tunnel.port, 443, "the port of a packaged server")
    same(world.curl(tunnel).status, 200, "a visit from outside")
    return tunnel


def reloaded(world, box, file, unit):
    """A good configuration is taken; a bad one fails the reload, and the daemon goes on."""
    pid = box.fact(unit, "MainPID")
    path = f"/etc/wormkey/{file}"
    good = box.run("cat", path)
    if file == "server.toml":
        box.write(path, server_toml(hold="20s"))
    box.run("systemctl", "reload", unit)
    box.run("systemctl", "reload", "wormkeyd")
    box.write(path, BAD)
    for name in (unit, "wormkeyd"):
        code, _, _ = box.run_code("systemctl", "reload", name)
        check(code != 0, f"{name}: a bad configuration was reloaded")
        same(box.is_active(name), "active", f"{name} after a bad reload")
    check("nonsense" in box.journal(unit), "the journal does not name the bad key")
    box.write(path, good)
    box.run("systemctl", "reload", unit)
    same(box.fact(unit, "MainPID"), pid, "the daemon's process")


def killed(world, server, client, tunnel):
    """kill -9: there again, and the tunnel too."""
    for box, unit in ((server, "wormkeyd-server"), (client, "wormkeyd-client")):
        before = box.fact(unit, "MainPID")
        box.run("kill", "-9", before)
        until(f"{unit} is there again", 15, lambda: box.fact(unit, "MainPID") not in (before, "0"))
        until(f"{unit} is ready", 15, lambda: box.is_active(unit) == "active")
        took = visited(world, tunnel, f"a visit after {unit} was killed")
        world.say(f"{unit} killed: started again by systemd, a visit is answered {took:.1f} s later")
        same(box.fact(unit, "NRestarts"), "1", f"restarts of {unit}")


def stalled(world, box, tunnel):
    """A daemon that hangs is not let hang: systemd ends it and starts another."""
    unit = "wormkeyd-server"
    box.write(f"/run/systemd/system/{unit}.service.d/test.conf", "[Service]\nWatchdogSec=2s\n")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "restart", unit)
    before = box.fact(unit, "MainPID")
    # Longer than the watchdog's patience: a daemon that lives is left alone.
    time.sleep(4)
    same(box.fact(unit, "MainPID"), before, "a daemon that lives, after two of its watchdog's times")
    began = time.monotonic()
    box.run("kill", "-STOP", before)
    until("another process", 20, lambda: box.fact(unit, "MainPID") not in (before, "0"))
    world.say(f"a stalled server is replaced after {time.monotonic() - began:.1f} s (watchdog 2 s)")
    check("watchdog" in box.journal(unit).lower(), "the journal does not name the watchdog")
    visited(world, tunnel, "a visit after the stall")
    box.run("rm", "-r", f"/run/systemd/system/{unit}.service.d")
    box.run("systemctl", "daemon-reload")


def upgraded(world, server, client, tunnel, later):
    """Each end under load: the client's upgrade loses no visit; the server's only those that come while
    it is away, and its pause is short. What was edited stays."""
    client.run("sh", "-c", "echo '# mine' >>/etc/wormkey/client.toml")
    edited = client.run("cat", "/etc/wormkey/client.toml")
    kept = server.run("cat", "/etc/wormkey/server.toml")
    for box, unit in ((client, "wormkeyd-client"), (server, "wormkeyd-server")):
        package = box.bring(later)
        before = box.fact(unit, "MainPID")
        with Load(tunnel, 20, "/after/100", patience=30) as load:
            until("visits are answered", 10, lambda: load.visits and load.visits[0].status == 200)
            box.run("dpkg", "--force-confold", "-i", package, seconds=120)
            visited(world, tunnel, f"a visit after the upgrade of {unit}")
            time.sleep(1)
        check(box.fact(unit, "MainPID") != before, f"{unit} still runs what was replaced")
        same(box.is_active(unit), "active", unit)
        same(box.is_enabled("wormkeyd"), "enabled", "wormkeyd after an upgrade")
        if box is client:
            world.say(load.all_answered(load.visits, "upgrade of the client under load"))
        else:
            lost = [visit for visit in load.visits if visit.status != 200]
            pause = max((visit.ended for visit in lost), default=0)
            pause -= min((visit.began for visit in lost), default=0)
            world.say(
                f"upgrade of the server under load: {len(load.visits)} visits,"
                f" {len(lost)} not answered within {pause:.2f} s"
            )
            refused = [visit for visit in lost if "Refused" in (visit.error or "")]
            same(len(refused), len(lost), f"of the lost, refused: {sorted({v.said() for v in lost})[:5]}")
            check(pause < limit(2), f"nobody answered for {pause:.1f} s")
    same(client.run("cat", "/etc/wormkey/client.toml"), edited, "the edited client.toml")
    same(server.run("cat", "/etc/wormkey/server.toml"), kept, "the written server.toml")
    same(server.run("dpkg-query", "-Wf${Version}", "wormkey"), "0.1.1-1", "the version")


def rebooted(world, server, client, tunnel):
    """Both machines start again, and the same address answers without anybody's doing."""
    for box, unit in ((server, "wormkeyd-server"), (client, "wormkeyd-client")):
        box.reboot()
        same(box.is_active(unit), "active", f"{unit} after a reboot")
        same(box.is_active("wormkeyd"), "active", "wormkeyd after a reboot")
        took = visited(world, tunnel, f"a visit after the machine of {unit} rebooted")
        world.say(f"the machine of {unit} rebooted: a visit is answered {took:.1f} s later")


def removed(box, role):
    """Removal stops it and keeps what is theirs; purging takes state and settings, and nothing else."""
    unit = f"wormkeyd-{role}"
    box.run("dpkg", "-r", "wormkey")
    same(box.is_active(unit), "inactive", f"{unit} after removal")
    for gone in ("/usr/bin/wormkeyd", "/usr/lib/systemd/system/wormkeyd.service", "/run/wormkey"):
        check(not there(box, gone), f"{gone} is there after removal")
    for stays in (f"/etc/wormkey/{role}.toml", f"/var/lib/wormkey/{role}.db"):
        check(there(box, stays), f"removal took {stays}")
    box.run("dpkg", "-P", "wormkey")
    check(not there(box, "/var/lib/wormkey"), "purging left state")
    left = box.run("find", "/etc", "-type", "f", "-path", "*wormkey*").split()
    theirs = ["/etc/wormkey/fullchain.pem", "/etc/wormkey/privkey.pem", CREDENTIALS]
    same(sorted(left), sorted(theirs) if role == "server" else [], "what purging left in /etc")
    failed = box.run("systemctl", "--failed", "--plain", "--no-legend").strip()
    check("wormkey" not in failed, f"failed units after purging: {failed}")


def there(box, path):
    return box.run_code("test", "-e", path)[0] == 0
