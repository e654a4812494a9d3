"""A server, its clients and their tunnels as real processes; what every bed stands on.

In direct mode there are no daemons: `open` hands out the origin's own address, so that a bed that
fails both ways is a broken bed, and one that fails only tunnelled is ours.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import http.client
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import typing
import urllib.parse

import cache

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DOMAIN = "t.wormkey.test"
MIB = 1024 * 1024


class Failure(AssertionError):
    """The program did not do what it promises."""


def check(true, said):
    if not true:
        raise Failure(said)


def same(seen, expected, what):
    check(seen == expected, f"{what}: expected {expected!r}, saw {seen!r}")


def until(what, seconds, probe, every=0.02):
    """Asks `probe` until it answers something true; what it answered."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        check(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(every)


def limit(promised):
    """What is asserted of a promised time, on a machine that others use too and of a debug build:
    five times as long, but no more than two seconds longer, and never under two seconds."""
    return max(promised + min(4 * promised, 2.0), 2.0)


def free_port():
    """A port that is free for TCP and UDP on loopback at this moment."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port


_LIBC = ctypes.CDLL(None)
# The kernel ends such a child with the thread that started it, so that thread must live on.
_STARTER = concurrent.futures.ThreadPoolExecutor(1)


def _die_with_parent():
    pr_set_pdeathsig = 1
    _LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)


class Process:
    """A child with its output in a file. Ended with the bed, and with this process at the latest."""

    def __init__(self, command, folder, name, env, stdin=subprocess.DEVNULL, **kwargs):
        self.name = name
        self.log = pathlib.Path(folder) / f"{name}.log"
        with open(self.log, "ab") as out:
            self.child = _STARTER.submit(
                subprocess.Popen,
                [str(word) for word in command],
                stdin=stdin,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                **kwargs,
            ).result()

    @property
    def pid(self):
        return self.child.pid

    def text(self):
        return self.log.read_text(errors="replace")

    def line(self, pattern, seconds=30):
        """The first line of its output that matches; a match object."""

        def probe():
            found = re.search(pattern, self.text(), re.MULTILINE)
            check(found or self.child.poll() is None, f"{self.name} ended:\n{self.text()[-3000:]}")
            return found

        return until(f"{self.name} prints {pattern}", seconds, probe)

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _group(self, number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill(self):
        """kill -9, of what it started too."""
        self._group(signal.SIGKILL)
        self.child.wait()

    def stop(self, seconds=10):
        """Ends it politely, then not; its exit code."""
        if self.child.poll() is None:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(seconds)
        self.kill()
        return self.child.returncode

    def _status(self, field):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status)[1])

    def rss(self):
        """Resident memory in bytes."""
        return self._status("VmRSS") * 1024

    def threads(self):
        return self._status("Threads")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class PeakRss:
    """Samples processes' resident memory while a block runs."""

    def __init__(self, **processes):
        self.processes = processes
        self.idle = {name: process.rss() for name, process in processes.items()}
        self.peak = dict(self.idle)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self):
        while not self._over.wait(0.02):
            for name, process in self.processes.items():
                with contextlib.suppress(OSError, TypeError):
                    self.peak[name] = max(self.peak[name], process.rss())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def growth(self):
        return {name: self.peak[name] - self.idle[name] for name in self.processes}

    def said(self):
        return ", ".join(
            f"{name} {self.idle[name] / MIB:.1f} MiB idle, +{grown / MIB:.1f} at its peak"
            for name, grown in self.growth().items()
        )


@dataclasses.dataclass
class Tunnel:
    """Where visitors find an origin: through the tunnel, or itself in direct mode."""

    url: str
    cafile: str | None
    json: dict
    address: str = "127.0.0.1"
    # The network that visitors are in: a namespace, or this process's own.
    inside: typing.Callable = contextlib.nullcontext

    def __post_init__(self):
        parts = urllib.parse.urlsplit(self.url)
        self.host = parts.hostname
        self.tls = parts.scheme == "https"
        self.port = parts.port or (443 if self.tls else 80)
        self.netloc = parts.netloc
        self.slug = self.json.get("slug")

    def context(self, alpn=()):
        context = ssl.create_default_context(cafile=self.cafile)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def dial(self, timeout=10, rcvbuf=None, alpn=("http/1.1",)):
        """A connection to the edge for this tunnel's name, verified."""
        # A socket stays in the network that it was made in.
        with self.inside():
            plain = socket.socket()
        try:
            plain.settimeout(timeout)
            if rcvbuf:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            plain.connect((self.address, self.port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self.tls:
                return plain
            return self.context(alpn).wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


@dataclasses.dataclass
class Answer:
    """What curl got."""

    status: int
    version: str
    headers: dict
    body: bytes
    code: int
    seconds: float
    stderr: str

    @property
    def error(self):
        return self.headers.get("wormkey-error")


class Daemon:
    """`wormkeyd server` or `wormkeyd client` with a folder of its own."""

    role = ""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.folder = world.folder / name
        self.folder.mkdir()
        self.socket = self.folder / "ctl.sock"
        self.config = self.folder / f"{self.role}.toml"
        self.process = None

    def start(self):
        self.begin()
        self.ready()
        return self

    def begin(self):
        """Starts it without waiting for it."""
        command = [self.world.wormkeyd, self.role, "--config", self.config]
        prefix = self.world.prefixes.get(self.role, [])
        self.process = self.world.spawn([*prefix, *command], self.name)

    def configure(self, **written):
        """Writes its configuration: what every bed has, and over it what this bed's world sets.
        A section or key of None is left out."""
        written["state"] = {"dir": f"{self.folder}/state"}
        written["admin"] = {"socket": f"{self.socket}"}
        written["link"] = {"keep_alive": "1s"}
        written["log"] = {"format": "text", "level": self.world.log_level}
        for name, change in self.world.settings.get(self.role, {}).items():
            written[name] = {**written.get(name, {}), **change} if change else change
        # Keys before sections; JSON's texts, numbers and lists are TOML's too.
        lines = []
        for name, value in sorted(written.items(), key=lambda one: isinstance(one[1], dict)):
            if isinstance(value, dict):
                pairs = {key: of for key, of in value.items() if of is not None}
                lines += [f"[{name}]", *(f"{key} = {json.dumps(of)}" for key, of in pairs.items())]
            elif value is not None:
                lines.append(f"{name} = {json.dumps(value)}")
        self.config.write_text("\n".join(lines) + "\n")

    def ready(self):
        def answers():
            code = self.process.child.poll()
            check(code is None, f"{self.name} ended with {code}:\n{self.process.text()[-3000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                return bool(self.status())

        until(f"{self.name} answers on its socket", 20, answers)

    def status(self):
        """`GET /v1/status`, without the cost of a command: for what is asked many times a second."""
        return json.loads(self.asked("/v1/status"))

    def asked(self, path):
        """What the admin API answers to a GET."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.socket))
            connection.request("GET", path)
            return connection.getresponse().read()

    def words(self, words):
        return words

    def ctl_code(self, *words, stdin=None, seconds=30):
        """(exit code, stdout, stderr) of `wormkeyctl --json …`."""
        command = [self.world.wormkeyctl, "--socket", self.socket, "--json", *self.words(words)]
        done = subprocess.run(
            [str(word) for word in command],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=self.world.env,
            timeout=seconds,
        )
        return done.returncode, done.stdout, done.stderr

    def ctl_text(self, *words):
        """What `wormkeyctl …` tells a person."""
        command = [self.world.wormkeyctl, "--socket", self.socket, *self.words(words)]
        command = [str(word) for word in command]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.world.env, timeout=30
        )
        check(done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def ctl(self, *words, stdin=None):
        code, out, err = self.ctl_code(*words, stdin=stdin)
        said = " ".join(map(str, words))
        check(code == 0, f"wormkeyctl {said} on {self.name}: exit {code}\n{out}{err}")
        return json.loads(out) if out.strip() else None


class Server(Daemon):
    """The public side."""

    role = "server"

    def __init__(self, world):
        super().__init__(world, "server")
        self.port = free_port()
        at = f"{world.address}:{self.port}"
        told = f"{world.advertised or world.address}:{self.port}"
        self.configure(
            domain=DOMAIN,
            listen={"https": at, "http": "off", "advertise": [told]},
            tls={
                "mode": "files",
                "cert": world.certificates.leaf,
                "key": world.certificates.leaf_key,
            },
        )

    def words(self, words):
        return ("server", *words)

    def invite(self, *flags):
        return self.ctl("invite", *flags)["token"]


class Client(Daemon):
    """Where the origins are."""

    role = "client"

    def __init__(self, world, name):
        super().__init__(world, name)
        self.files = self.folder / "files"
        self.files.mkdir()
        self.configure(origins={"files": [str(self.files)]})

    def join(self, server, *flags):
        self.ctl("join", "-", stdin=server.invite(*flags) + "\n")
        return self

    def open(self, target, *flags):
        answer = self.ctl("open", target, *flags)
        world = self.world
        return Tunnel(answer["url"], world.certificates.ca, answer, world.address, world.inside)

    def show(self, slug):
        return self.ctl("show", slug)


class Certificates:
    """An authority of our own and a wildcard leaf of it, so that every program really verifies."""

    def __init__(self, folder):
        openssl = cache.program("openssl", "openssl")
        folder.mkdir()
        self.ca, ca_key = str(folder / "ca.pem"), str(folder / "ca.key")
        self.leaf, self.leaf_key = str(folder / "leaf.pem"), str(folder / "leaf.key")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        names = f"subjectAltName=DNS:*.{DOMAIN},DNS:{DOMAIN}"
        for words in [
            ["-subj", "/CN=wormkey tests", "-keyout", ca_key, "-out", self.ca]
            + ["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
            ["-subj", f"/CN={DOMAIN}", "-keyout", self.leaf_key, "-out", self.leaf]
            + ["-CA", self.ca, "-CAkey", ca_key, "-addext", names]
            + ["-addext", "basicConstraints=critical,CA:FALSE"]
            + ["-addext", "extendedKeyUsage=serverAuth"],
        ]:
            command = [openssl, "req", "-x509", *curve, *words]
            subprocess.run(command, check=True, capture_output=True)


class World:
    """One bed's folder, processes and daemons; a context manager that leaves nothing behind."""

    log_level = "info"

    def __init__(self, folder, direct=False, long=False):
        self.folder = pathlib.Path(folder)
        self.direct = direct
        self.long = long
        target = REPOSITORY / "target" / "debug"
        self.wormkeyd = os.environ.get("WORMKEYD") or target / "wormkeyd"
        self.wormkeyctl = os.environ.get("WORMKEYCTL") or target / "wormkeyctl"
        # Where the server is, and how programs of a role get into the network that they live in.
        self.address = "127.0.0.1"
        self.advertised = None
        self.inside = contextlib.nullcontext
        self.prefixes = {}
        self.settings = {}
        self.processes = []
        self.undo = contextlib.ExitStack()
        self.said = []
        self._certificates = None
        self._client_names = (f"client{n}" for n in itertools.count(1))
        self.server = None
        self._client = None
        home = self.folder / "home"
        home.mkdir()
        self.env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(home),
            "TMPDIR": str(home),
            "LANG": "C.UTF-8",
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.undo.close()
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def say(self, fact):
        """A figure worth reading, printed under the bed's line."""
        self.said.append(fact)

    @property
    def certificates(self):
        if self._certificates is None:
            self._certificates = Certificates(self.folder / "certificates")
        return self._certificates

    def spawn(self, command, name, env=None, **kwargs):
        process = Process(command, self.folder, name, {**self.env, **(env or {})}, **kwargs)
        self.processes.append(process)
        return process

    def client(self, *flags):
        """A new client that has joined the server, with an invitation of such flags; starts that too
        when it is not there."""
        if self.server is None:
            self.server = Server(self).start()
        return self.stranger().join(self.server, *flags)

    def stranger(self):
        """A new client that has not joined."""
        return Client(self, next(self._client_names)).start()

    @property
    def first_client(self):
        if self._client is None:
            self._client = self.client()
        return self._client

    def open(self, port, *flags):
        """A visitor's way to the origin on `port`."""
        if self.direct:
            return Tunnel(f"http://127.0.0.1:{port}", None, {})
        return self.first_client.open(str(port), *flags)

    def daemons(self):
        """Both, by name, for PeakRss."""
        return {"server": self.server.process, "client": self.first_client.process}

    def curl(self, tunnel, path="/", *words, host=None, seconds=30):
        """Asks the tunnel, as a person would."""
        name = host or tunnel.host
        heads, body = self.folder / "curl.heads", self.folder / "curl.body"
        for file in (heads, body):
            file.unlink(missing_ok=True)
        command = [*self.prefixes.get("visitor", []), cache.program("curl", "curl")]
        command += ["-sS", "--max-time", seconds]
        command += ["-D", heads, "-o", body, "-w", "%{http_code} %{http_version}", "--noproxy", "*"]
        if tunnel.tls:
            command += ["--cacert", tunnel.cafile]
            command += ["--resolve", f"{name}:{tunnel.port}:{tunnel.address}"]
        scheme = "https" if tunnel.tls else "http"
        command += [*words, f"{scheme}://{name}:{tunnel.port}{path}"]
        began = time.monotonic()
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, env=self.env
        )
        took = time.monotonic() - began
        status, _, version = done.stdout.partition(" ")
        # Interim heads come first: the last block is the answer's.
        text = heads.read_text(errors="replace") if heads.exists() else ""
        blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if block.strip()]
        pairs = [line.partition(":") for line in blocks[-1].splitlines()[1:]] if blocks else []
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        content = body.read_bytes() if body.exists() else b""
        return Answer(
            int(status or 0), version, headers, content, done.returncode, took, done.stderr
        )
