"""Other people's tunnels beside ours, each set up as its own documentation says, with TLS between its
ends where it has that. They are asked for by package name, never brought along: what a machine
cannot get is `cache.Unavailable`, with the reason.

A byte tunnel forwards one public port to the origin; its visitors speak to that.
"""

import contextlib
import itertools
import shutil
import socket
import subprocess
import sys
import threading
import time

import cache
from harness import DOMAIN, Failure, Tunnel, check, free_port, until

# The client side is looked after as a service manager would do it.
RESTART_AFTER = 1.0
STARTS_WITHIN = 30
_COUNT = itertools.count(1)
SECRET = "a-secret-for-both-ends"


class Subject:
    """A tunnel to one origin, of whatever make: two processes, and the address that visitors use."""

    name = ""
    # What its ends speak over; a tunnel over TCP does not feel what happens to UDP.
    carrier = "tcp"
    # Whether its programs take the time from the C library, where it can be replaced.
    libc = True

    def __init__(self, world, workers=None, env=None):
        self.world = world
        self.workers = workers
        self.env = dict(env or {})
        self.restarts = 0
        self.tunnel = None

    def processes(self):
        """{"server": process, "client": process}."""
        raise NotImplementedError

    def stop(self):
        """Ends it before its world does, where it is more than a tunnel of the world's daemons."""

    def gather(self, target, count):
        """So many other clients, each with a tunnel of its own; the tunnels."""
        raise NotImplementedError

    def wait_ready(self, tunnel, seconds=STARTS_WITHIN):
        def answers():
            with contextlib.suppress(OSError):
                return self.world.curl(tunnel, seconds=2).status == 200

        until(f"{self.name} answers", seconds, answers, every=0.1)
        self.tunnel = tunnel
        return tunnel


class Wormkey(Subject):
    """Ours, by the daemons that the world has."""

    name = "wormkey"
    carrier = "udp"
    def start(self, target):
        for role in ("server", "client"):
            words = [f"{name}={of}" for name, of in self.env.items()]
            before = self.world.prefixes.get(role, [])
            self.world.prefixes[role] = [*before, *(["env", *words] if words else [])]
        return self.wait_ready(self.world.open(target))

    def processes(self):
        return self.world.daemons()

    def gather(self, target, count):
        # They share a process, but nothing in it.
        from beds.net_thousand import Fleet

        return Fleet(self.world, count, str(target)).tunnels(400)

    def kill(self, role):
        self.processes()[role].kill()

    def restart(self, role):
        daemon = self.world.server if role == "server" else self.world.first_client
        daemon.begin()


class Peer(Subject):
    """A byte tunnel: `server_words` and `client_words` are its commands."""

    control = 7000
    public = 8080
    # Room for so many more public ports, if it must know before it starts.
    crowd = 0

    def __init__(self, world, workers=None, env=None):
        super().__init__(world, workers, env)
        self.folder = world.folder / f"{self.name}-{next(_COUNT)}"
        self.folder.mkdir()
        self._spawned = {}
        # The commands of other clients, by name.
        self._others = {}
        self._over = threading.Event()
        self._resting = set()

    @classmethod
    def find(cls):
        """Its programs, installed when they are missing."""
        raise NotImplementedError

    def on_loopback(self):
        """Ports of its own, where others have theirs too."""
        self.public = free_port()
        if self.control != Bore.control:
            self.control = free_port()

    def start(self, target, secured=False, answers=True):
        """Starts both ends; `target` is the origin's port beside the client, which is `secured` by TLS
        of its own or not; and `answers` HTTP or not."""
        self.configure(target)
        self.restart("server")
        until("its server listens", STARTS_WITHIN, lambda: self._listens(self.control))
        self.restart("client")
        keeper = threading.Thread(target=self._keep, daemon=True)
        keeper.start()
        self.world.undo.callback(self._stop, keeper)
        if not answers:
            return until("its public port", STARTS_WITHIN, lambda: self._listens(self.public))
        world = self.world
        at, ca = f"http://{world.address}:{self.public}", None
        if secured:
            at, ca = f"https://{self.name}.{DOMAIN}:{self.public}", world.certificates.ca
        return self.wait_ready(Tunnel(at, ca, {}, world.address, world.inside))

    def stop(self):
        """Ends both, before its world does."""
        self._over.set()
        for process in self._spawned.values():
            process.kill()

    def _stop(self, keeper):
        self._over.set()
        keeper.join()

    def _listens(self, port):
        with self.world.inside(), socket.socket() as plain:
            plain.settimeout(1)
            return plain.connect_ex((self.world.address, port)) == 0

    def configure(self, target):
        raise NotImplementedError

    def words(self, role):
        raise NotImplementedError

    def processes(self):
        return {role: self._spawned[role] for role in ("server", "client")}

    def gather(self, target, count):
        world, public = self.world, self.public
        tunnels = []
        for number in range(1, count + 1):
            self.public = public + number
            self.configure_client(target, f"client-{number}")
            name = f"{self.name}-client-{number}"
            self._others[name] = [*world.prefixes.get("client", []), *self.words("client")]
            self._spawned[name] = world.spawn(self._others[name], name, env=self.tuned())
            at = f"http://{world.address}:{self.public}"
            tunnels.append(Tunnel(at, None, {}, world.address, world.inside))
        self.public = public
        self.configure_client(target, "client")
        return tunnels

    def configure_client(self, target, name):
        """What one client, with the public port that is set now, goes by; `name` is its own."""
        self.target, self.named = target, name

    def kill(self, role):
        self._resting.add(role)
        self._spawned[role].kill()

    def restart(self, role):
        prefix = self.world.prefixes.get(role, [])
        env = {**self.env, **self.tuned()}
        words = [*prefix, *self.words(role)]
        self._spawned[role] = self.world.spawn(words, f"{self.name}-{role}", env=env)
        self._resting.discard(role)

    def tuned(self):
        """How many workers it is to have, in its own language."""
        return {}

    def _keep(self):
        ended = {}
        while not self._over.wait(0.1):
            for name, process in list(self._spawned.items()):
                if name == "server" or name in self._resting or process.child.poll() is None:
                    ended.pop(name, None)
                elif time.monotonic() >= ended.setdefault(name, time.monotonic()) + RESTART_AFTER:
                    del ended[name]
                    self._again(name)

    def _again(self, name):
        if name == "client":
            self.restarts += 1
            return self.restart(name)
        self._spawned[name] = self.world.spawn(self._others[name], name, env=self.tuned())

    def write(self, name, text):
        file = self.folder / name
        file.write_text(text)
        return file


class Rathole(Peer):
    name = "rathole"

    @classmethod
    def find(cls):
        found = shutil.which("rathole")
        # Not its own lock file: `time` of then does not compile any more.
        return found or _cargo("rathole", "0.5.0", locked=False)

    def configure(self, target):
        certificates, at = self.world.certificates, self.world.address
        bundle = self.folder / "identity.p12"
        words = ["pkcs12", "-export", "-in", certificates.leaf, "-inkey", certificates.leaf_key]
        words += ["-out", bundle, "-passout", "pass:bundle"]
        done = subprocess.run([cache.program("openssl", "openssl"), *words], capture_output=True)
        check(done.returncode == 0, f"openssl: {done.stderr}")
        self.write(
            "server.toml",
            f"""[server]
bind_addr = "{at}:{self.control}"
default_token = "{SECRET}"
[server.transport]
type = "tls"
[server.transport.tls]
pkcs12 = "{bundle}"
pkcs12_password = "bundle"
"""
            + "".join(
                f'[server.services.at{port}]\nbind_addr = "{at}:{port}"\n'
                for port in range(self.public, self.public + self.crowd + 1)
            ),
        )
        self.configure_client(target, "client")

    def configure_client(self, target, name):
        super().configure_client(target, name)
        certificates, at = self.world.certificates, self.world.address
        self.write(
            f"{name}.toml",
            f"""[client]
remote_addr = "{at}:{self.control}"
default_token = "{SECRET}"
[client.transport]
type = "tls"
[client.transport.tls]
trusted_root = "{certificates.ca}"
hostname = "{DOMAIN}"
[client.services.at{self.public}]
local_addr = "127.0.0.1:{target}"
""",
        )

    def words(self, role):
        file = "server" if role == "server" else self.named
        return [self.find(), f"--{role}", self.folder / f"{file}.toml"]

    def tuned(self):
        return {"TOKIO_WORKER_THREADS": str(self.workers)} if self.workers else {}


class Bore(Peer):
    name = "bore"
    control = 7835

    @classmethod
    def find(cls):
        return shutil.which("bore") or _cargo("bore-cli", "0.6.0", binary="bore")

    def configure(self, target):
        self.configure_client(target, "client")

    def words(self, role):
        if role == "server":
            at = self.world.address
            return [self.find(), "server", "--bind-addr", at, "--bind-tunnels", at]
        words = ["local", self.target, "--local-host", "127.0.0.1", "--port", self.public]
        return [self.find(), *words, "--to", self.world.address]

    def tuned(self):
        return {"TOKIO_WORKER_THREADS": str(self.workers)} if self.workers else {}


class Go(Peer):
    """Programs in Go speak to the kernel themselves."""

    libc = False

    def tuned(self):
        return {"GOMAXPROCS": str(self.workers)} if self.workers else {}


class Frp(Go):
    name = "frp"
    transport = "tcp"
    versions = ("v0.65.0", "v0.61.2", "v0.58.1", "latest")

    @classmethod
    def find(cls, part="frps"):
        package = f"github.com/fatedier/frp/cmd/{part}"
        return shutil.which(part) or cache.go_program(part, package, cls.versions)

    def configure(self, target):
        certificates, at = self.world.certificates, self.world.address
        self.write(
            "server.toml",
            f"""bindAddr = "{at}"
bindPort = {self.control}
quicBindPort = {self.control}
proxyBindAddr = "{at}"
auth.token = "{SECRET}"
transport.tls.force = true
transport.tls.certFile = "{certificates.leaf}"
transport.tls.keyFile = "{certificates.leaf_key}"
""",
        )
        self.configure_client(target, "client")

    def configure_client(self, target, name):
        super().configure_client(target, name)
        certificates, at = self.world.certificates, self.world.address
        self.write(
            f"{name}.toml",
            f"""serverAddr = "{at}"
serverPort = {self.control}
loginFailExit = false
auth.token = "{SECRET}"
transport.protocol = "{self.transport}"
transport.tls.trustedCaFile = "{certificates.ca}"
transport.tls.serverName = "{DOMAIN}"
[[proxies]]
name = "at{self.public}"
type = "tcp"
localIP = "127.0.0.1"
localPort = {target}
remotePort = {self.public}
""",
        )

    def words(self, role):
        if role == "server":
            return [self.find("frps"), "-c", self.folder / "server.toml"]
        return [self.find("frpc"), "-c", self.folder / f"{self.named}.toml"]


class FrpQuic(Frp):
    name = "frp-quic"
    carrier = "udp"
    transport = "quic"


class Chisel(Go):
    name = "chisel"

    @classmethod
    def find(cls):
        package = "github.com/jpillora/chisel"
        versions = ("v1.10.1", "v1.9.1", "latest")
        return shutil.which("chisel") or cache.go_program("chisel", package, versions)

    def configure(self, target):
        self.configure_client(target, "client")

    def words(self, role):
        certificates, at = self.world.certificates, self.world.address
        if role == "server":
            words = ["--host", at, "--port", self.control, "--reverse"]
            words += ["--tls-cert", certificates.leaf, "--tls-key", certificates.leaf_key]
        else:
            words = ["--tls-ca", certificates.ca, "--sni", DOMAIN, f"https://{at}:{self.control}"]
            words += [f"R:{at}:{self.public}:127.0.0.1:{self.target}"]
        return [self.find(), role, *words]


PEERS = {one.name: one for one in (Wormkey, Rathole, Bore, Frp, FrpQuic, Chisel)}


def _cargo(*words, **options):
    try:
        # It takes minutes, once.
        print(f"{words[0]} {words[1]}: built by cargo if it is not yet", file=sys.stderr, flush=True)
        return cache.cargo_program(*words, release=True, **options)
    except (OSError, RuntimeError) as error:
        raise cache.Unavailable(f"{words[0]} could not be built: {str(error)[-200:]}") from None


def available(names):
    """({name: class}, {name: reason}) of those that this machine can have."""
    have, lacking = {}, {}
    for name in names:
        peer = PEERS[name]
        try:
            if issubclass(peer, Peer):
                peer.find()
            if issubclass(peer, Frp):
                peer.find("frpc")
            have[name] = peer
        except (cache.Unavailable, Failure) as reason:
            lacking[name] = str(reason)
    return have, lacking
