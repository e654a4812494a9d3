"""Certificates from an authority: each way to prove names, renewals under load, and every trouble."""

import dataclasses
import pathlib
import socket
import ssl
import threading
import time

import cache
import origins
from authority import (
    Authority,
    Bind,
    Delegation,
    Refusing,
    certificates,
    failing,
    issued,
    newer_pebble,
    older_pebble,
)
from beds.conformance import no_risk
from harness import DOMAIN, Server, check, free_port, same, until
from registry import bed
from visits import Load

WILDCARD = f"*.{DOMAIN}"


def serve(world, authority, listen=None, **acme):
    """The world's server with certificates of `authority`; not started."""
    names = {"cert": None, "key": None, "mode": "acme"}
    acme = {"ca": [authority.url], "root": authority.root, "dns.wait": "1s", **acme}
    world.settings["server"] = {"tls": names, "acme": acme}
    if listen:
        world.settings["server"]["listen"] = listen
    world.server = Server(world)
    return world.server


def dns_port(server):
    return int(server.status()["listen"]["dns"].rpartition(":")[2])


def leaf(address, name, cafile=None, alpn=()):
    """What a handshake shows for a name: DER, verified when there is a root."""
    context = ssl.create_default_context(cafile=cafile)
    if cafile is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with socket.create_connection(address, 10) as plain:
        with context.wrap_socket(plain, server_hostname=name) as secured:
            return secured.getpeercert(binary_form=True)


def visited(world, origin, authority, *flags):
    """A tunnel, and a visit to it that trusts the authority alone."""
    tunnel = world.open(origin.port, *flags)
    tunnel = dataclasses.replace(tunnel, cafile=authority.issuer_file())
    answer = world.curl(tunnel)
    same((answer.status, answer.code), (200, 0), f"a verified visit {answer.stderr}")
    return tunnel


def hook(world, authority):
    """A hook that sets challtestsrv's records, and says what it was called with."""
    path, log = world.folder / "hook", world.folder / "hook.calls"
    curl = cache.program("curl", "curl")
    base = f"http://127.0.0.1:{authority.dns_management}"
    path.write_text(
        "#!/bin/sh\nset -e\n"
        f'echo "$@" >> {log}\n'
        '[ "$1" = present ] && what=set-txt || what=clear-txt\n'
        f"""{curl} -sSf --noproxy '*' -d "{{\\"host\\":\\"$2.\\",\\"value\\":\\"$3\\"}}" {base}/$what\n"""
    )
    path.chmod(0o700)
    return path, log


@bed("acme")
def acme(world):
    """The wildcard by our own name server, which a resolver delegates to; and what a visitor sees."""
    authority = Authority(world)
    server = serve(world, authority, **{"dns.listen": "127.0.0.1:0"})
    began = time.monotonic()
    # The authority is not there yet: the daemon is, and says so.
    server.start()
    address = ("127.0.0.1", server.port)
    first = leaf(address, DOMAIN)
    with Delegation(dns_port(server), authority.dns) as delegation, origins.plain() as origin:
        said = failing(server, WILDCARD, "cannot reach")
        check("self-signed one is served" in said["says"], f"it is said: {said['says']}")
        authority.start(server.port, resolver=delegation.port)
        one = issued(server, WILDCARD)
        world.say(f"a wildcard {time.monotonic() - began:.1f} s after the start, the CA down at first")
        same(one["names"], [WILDCARD, DOMAIN], "the names")
        check(leaf(address, DOMAIN, authority.issuer_file()) != first, "another one is served")
        tunnel = visited(world, origin, authority)
        # A restart asks for nothing: the certificate is on disk, private.
        shown = leaf(address, tunnel.host)
        kept = server.folder / "state/acme" / f"wildcard.{DOMAIN}.pem"
        same(kept.stat().st_mode & 0o777, 0o600, "the file's mode")
        server.process.stop()
        server.start()
        same(leaf(address, tunnel.host), shown, "the same one at once")
        check(certificates(server)[WILDCARD]["renews_at"], "nothing is asked for")
        same(server.process.text().count("asking for a certificate"), 2, "orders so far")


@bed("acme_names")
def names(world):
    """Single names, by a look at each of our own ports."""
    authority = Authority(world)
    http = free_port()
    server = serve(world, authority, {"http": f"127.0.0.1:{http}"}, names=[f"blog.{DOMAIN}"])
    world.settings["server"]["acme"]["proofs"] = ["tls-alpn-01"]
    same_place = {"listen": {"https": f"127.0.0.1:{server.port}"}, "tls": {}, "domain": DOMAIN}
    server.configure(**same_place)
    authority.start(server.port, http=http)
    server.start()
    issued(server, f"blog.{DOMAIN}")
    with origins.plain() as origin:
        visited(world, origin, authority, "--name", "blog")
        # The same machine, told otherwise and restarted.
        server.process.stop()
        written = world.settings["server"]["acme"]
        written |= {"proofs": ["http-01"], "names": [f"shop.{DOMAIN}"]}
        server.configure(**same_place)
        server.start()
        issued(server, f"shop.{DOMAIN}")
        visited(world, origin, authority, "--name", "shop")
    # A stranger that offers the protocol of the look gets no certificate when none is looked at.
    try:
        leaf(("127.0.0.1", server.port), f"blog.{DOMAIN}", alpn=["acme-tls/1"])
    except (ssl.SSLError, OSError):
        return
    check(False, "a handshake for a look that is not going on")


@bed("acme_trouble")
def trouble(world):
    """A hook that is broken and mended; an authority that refuses while another does not."""
    authority = Authority(world)
    path, log = hook(world, authority)
    good = path.read_text()
    path.write_text("#!/bin/sh\necho no credentials for the zone >&2\nexit 1\n")
    with Refusing(authority, "caa", "CAA records forbid issuance") as refusing:
        server = serve(
            world, authority, ca=[refusing.url, authority.url], **{"dns.hook": str(path)}
        )
        authority.start(server.port, PEBBLE_WFE_NONCEREJECT="15")
        server.start()
        first = leaf(("127.0.0.1", server.port), DOMAIN)
        failing(server, WILDCARD, "CAA records forbid issuance")
        said = failing(server, WILDCARD, "no credentials for the zone")
        check(said["next_try"] and not said["renews_at"], f"it says when: {said}")
        same(leaf(("127.0.0.1", server.port), DOMAIN), first, "what was served is served")
        text = server.ctl_text("status")
        check("no credentials for the zone" in text, f"for people, too:\n{text}")
        path.write_text(good)
        server.ctl("reload")
        issued(server, WILDCARD, 90)
        calls = [line.split() for line in log.read_text().splitlines()]
        name = f"_acme-challenge.{DOMAIN}"
        check(all(call[1] == name for call in calls), f"its name: {calls}")
        verbs = sorted(call[0] for call in calls)
        same(verbs.count("present"), verbs.count("cleanup"), "all is cleared away")


@bed("acme_limits", long=True)
def limits(world):
    """An authority that wants to be left alone is left alone, whatever is reloaded or restarted."""
    authority = Authority(world)
    told = "too many certificates already issued"
    with Refusing(authority, "rateLimited", told, 429, retry_after=3600) as refusing:
        server = serve(world, authority, ca=[refusing.url], proofs=["tls-alpn-01"])
        authority.start(server.port)
        server.start()
        failing(server, DOMAIN, told)
        for _ in range(3):
            server.ctl("reload")
        server.process.stop()
        server.start()
        said = failing(server, DOMAIN, told)
        time.sleep(5)
        same(refusing.orders, 1, "orders")
        check(said["next_try"] > time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 3000)),
              f"an hour: {said}")


@bed("acme_dns", long=True)
def dns(world):
    """The wildcard by a hook and by updates that BIND takes, each from Debian 12's Pebble and from the
    newer one; a lost account is made anew."""
    for programs in (older_pebble(), newer_pebble()):
        old = programs == older_pebble()
        authority = Authority(world, f"pebble-{'old' if old else 'new'}", programs)
        path, log = hook(world, authority)
        server = serve(world, authority, **{"dns.hook": str(path)})
        authority.start(server.port)
        server.start()
        issued(server, WILDCARD)
        check("present" in log.read_text(), "the hook was called")
        server.process.stop()
        # Pebble forgets accounts when it ends, so this is an authority that was set up anew.
        authority.process.stop()
        (server.folder / "state/acme" / f"wildcard.{DOMAIN}.pem").unlink()
        bind = Bind(world, DOMAIN)
        written = world.settings["server"]["acme"]
        del written["dns.hook"]
        written |= {"dns.update": f"127.0.0.1:{bind.port}", "dns.key": str(bind.key)}
        authority.start(server.port, resolver=bind.port)
        server.configure(
            domain=DOMAIN,
            listen={"https": f"127.0.0.1:{server.port}", "http": "off"},
            tls={"mode": "acme"},
        )
        server.start()
        issued(server, WILDCARD)
        check("REFUSED" not in bind.process.text(), "BIND took them")
        server.process.stop()
        bind.process.stop()
        for left in (server.folder, world.folder / "bind", path, log):
            rename = pathlib.Path(left)
            rename.rename(f"{left}-{'old' if old else 'new'}")


class Handshakes:
    """New connections all the time, each verified: which certificates they saw, and what went wrong."""

    def __init__(self, address, name, cafile):
        self.arguments = (address, name, cafile)
        self.seen, self.errors, self.count = [], [], 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._over.wait(0.1):
            self.count += 1
            try:
                shown = leaf(*self.arguments)
            except (OSError, ssl.SSLError) as error:
                self.errors.append(repr(error))
                continue
            if shown not in self.seen:
                self.seen.append(shown)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


@bed("acme_renewal", long=True)
def renewal(world):
    """A certificate of 90 seconds is renewed three times under 100 visits a second; none fails."""
    authority = Authority(world, certificateValidityPeriod=90)
    path, _ = hook(world, authority)
    server = serve(world, authority, **{"dns.hook": str(path)})
    authority.start(server.port)
    server.start()
    issued(server, WILDCARD)
    with origins.plain() as origin:
        tunnel = visited(world, origin, authority)
        address = ("127.0.0.1", server.port)
        with Load(tunnel, 100) as load, Handshakes(address, tunnel.host, tunnel.cafile) as shown:
            until("four certificates were served", 400, lambda: len(shown.seen) >= 4, every=0.5)
        world.say(load.all_answered(load.begun(), "renewed three times"))
        world.say(f"{shown.count} new connections saw {len(shown.seen)} certificates")
        same(shown.errors, [], "new connections that failed")


@bed("acme_testssl", long=True)
def judged(world):
    """testssl.sh on an edge whose certificate an authority gave."""
    authority = Authority(world)
    path, _ = hook(world, authority)
    server = serve(world, authority, **{"dns.hook": str(path)})
    authority.start(server.port)
    server.start()
    issued(server, WILDCARD)
    with origins.plain() as origin:
        no_risk(world, visited(world, origin, authority))


@bed("certificate_files")
def files(world):
    """Files that are swapped while visitors come; ones that do not fit change nothing."""
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        server = world.server
        ours = world.certificates
        address = ("127.0.0.1", server.port)
        first = leaf(address, tunnel.host, ours.ca)
        key = pathlib.Path(ours.leaf_key)
        other = type(ours)(world.folder / "others")

        def only():
            return server.status()["certificates"][0]

        with Load(tunnel, 50) as load:
            old = key.read_bytes()
            key.write_bytes(pathlib.Path(other.leaf_key).read_bytes())
            until("a key that does not fit is said", 15, lambda: only()["last_error"])
            same(leaf(address, tunnel.host, ours.ca), first, "the old one stays")
            key.write_bytes(old)
            until("all is well again", 15, lambda: not only()["last_error"])
            fresh = pathlib.Path(other.leaf)
            pathlib.Path(ours.leaf).write_bytes(fresh.read_bytes())
            key.write_bytes(pathlib.Path(other.leaf_key).read_bytes())
            until("new files are served", 15, lambda: leaf(address, tunnel.host) != first)
            check(leaf(address, tunnel.host, other.ca) != first, "verified by the other authority")
        # Visitors trust the old authority, so those of new connections fail from the swap on.
        kept = [visit for visit in load.begun() if visit.status]
        world.say(load.all_answered(kept, "over connections that lived on"))
