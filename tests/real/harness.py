"""A server, its clients and their tunnels as real processes; what every bed stands on.

In direct mode there are no daemons: `open` hands out the origin's own address, so that a bed that
fails both ways is a broken bed, and one that fails only tunnelled is ours.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
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

    def rss(self):
        """Resident memory in bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


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
        plain = socket.socket()
        try:
            plain.settimeout(timeout)
            if rcvbuf:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            plain.connect(("127.0.0.1", self.port))
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
        command = [self.world.wormkeyd, self.role, "--config", self.config]
        self.process = self.world.spawn(command, self.name)
        self.ready()
        return self

    def ready(self):
        def answers():
            code = self.process.child.poll()
            check(code is None, f"{self.name} ended with {code}:\n{self.process.text()[-3000:]}")
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.socket))
                except OSError:
                    return False
            return self.ctl_code("status")[0] == 0

        until(f"{self.name} answers on its socket", 20, answers)

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
        self.config.write_text(
            f"""domain = "{DOMAIN}"
[listen]
https = "127.0.0.1:{self.port}"
http = "off"
advertise = ["127.0.0.1:{self.port}"]
[tls]
mode = "files"
cert = "{world.certificates.leaf}"
key = "{world.certificates.leaf_key}"
[state]
dir = "{self.folder}/state"
[admin]
socket = "{self.socket}"
[link]
keep_alive = "1s"
[log]
format = "text"
level = "{world.log_level}"
"""
        )

    def words(self, words):
        return ("server", *words)

    def invite(self):
        return self.ctl("invite")["token"]


class Client(Daemon):
    """Where the origins are."""

    role = "client"

    def __init__(self, world, name):
        super().__init__(world, name)
        self.files = self.folder / "files"
        self.files.mkdir()
        self.config.write_text(
            f"""[state]
dir = "{self.folder}/state"
[admin]
socket = "{self.socket}"
[origins]
files = ["{self.files}"]
[link]
keep_alive = "1s"
[log]
format = "text"
level = "{world.log_level}"
"""
        )

    def join(self, server):
        self.ctl("join", "-", stdin=server.invite() + "\n")
        return self

    def open(self, target, *flags):
        answer = self.ctl("open", target, *flags)
        return Tunnel(answer["url"], self.world.certificates.ca, answer)

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

    def client(self):
        """A new client that has joined the server; starts that too when it is not there."""
        if self.server is None:
            self.server = Server(self).start()
        return Client(self, next(self._client_names)).start().join(self.server)

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
        command = [cache.program("curl", "curl"), "-sS", "--max-time", seconds]
        command += ["-D", heads, "-o", body, "-w", "%{http_code} %{http_version}", "--noproxy", "*"]
        if tunnel.tls:
            command += ["--cacert", tunnel.cafile]
            command += ["--resolve", f"{name}:{tunnel.port}:127.0.0.1"]
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
