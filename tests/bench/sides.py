"""What is measured, and what stands behind it: the origin, nginx and haproxy as reverse proxies, and
the tunnels. All on loopback; the ones that only carry bytes get an origin with TLS, so that a visitor
speaks TLS to each."""

import os
import pathlib

import cache
import loads
import peers
from harness import DOMAIN, MIB, Tunnel, check, free_port, until

KIB_FILE, MIB_FILE, LARGE_FILE = "/kib", "/mib", "/large"

# A flood from one address is what these are against, and what a benchmark is.
NO_LIMITS = ("tunnel_rate", "tunnel_concurrency", "visitor_rate", "visitor_concurrency")
MANY_HANDSHAKES = "1000000/s burst 1000000"

NGINX = """{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile 65536;
pid {folder}/{name}.pid;
error_log {folder}/{name}.err;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/{name}-body;
  proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-fcgi;
  uwsgi_temp_path {folder}/{name}-uwsgi;
  scgi_temp_path {folder}/{name}-scgi;
{servers}
}}
"""

TLS = """ssl http2 backlog=4096;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;"""

ORIGIN = """
  server {{ listen 127.0.0.1:{plain} backlog=4096; root {root}; }}
  server {{ listen 127.0.0.1:{secured} {tls} root {root}; }}
"""

PROXY = """
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} {tls}
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto https;
    }}
  }}
"""

HAPROXY = """global
  maxconn 8192
  nbthread {workers}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  http-reuse always
frontend visitors
  bind 127.0.0.1:{port} ssl crt {bundle} alpn h2,http/1.1
  option forwardfor
  http-request set-header X-Forwarded-Proto https
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin}
"""


class ReverseProxy(peers.Subject):
    """TLS in front of the same origin: one hop, where a tunnel has two."""

    def processes(self):
        return {"server": self._process}

    def stop(self):
        self._process.kill()


class Nginx(ReverseProxy):
    name = "nginx"

    @classmethod
    def find(cls):
        return cache.program("nginx", "nginx-light")

    def start(self, origin):
        port = free_port()
        servers = PROXY.format(origin=origin.plain, port=port, tls=_tls(self.world))
        self._process = nginx(self.world, f"proxy{self.workers or ''}", self.workers or "auto", servers)
        url = f"https://nginx.{DOMAIN}:{port}"
        return self.wait_ready(Tunnel(url, self.world.certificates.ca, {}))


class Haproxy(ReverseProxy):
    name = "haproxy"

    @classmethod
    def find(cls):
        return cache.program("haproxy", "haproxy")

    def start(self, origin):
        world, port = self.world, free_port()
        bundle = world.folder / "haproxy.pem"
        parts = (world.certificates.leaf, world.certificates.leaf_key)
        bundle.write_text("".join(pathlib.Path(part).read_text() for part in parts))
        config = world.folder / f"haproxy{self.workers or ''}.cfg"
        workers = self.workers or os.cpu_count()
        config.write_text(HAPROXY.format(workers=workers, port=port, bundle=bundle, origin=origin.plain))
        self._process = world.spawn([self.find(), "-db", "-f", config], "haproxy")
        return self.wait_ready(Tunnel(f"https://haproxy.{DOMAIN}:{port}", world.certificates.ca, {}))


class BareQuic:
    """One end of a QUIC connection that has no link, edge and origin around it, for as long as the world lives."""

    name = "quinn"

    def __init__(self, world):
        self.world = world
        command = [*world.prefixes.get("server", []), loads.quic_program(), "take"]
        self._process = world.spawn(command, "bare-quic")
        self.port, self.certificate = self._process.line(r"^(\d+) (\S+)$").groups()

    def processes(self):
        return {"server": self._process}


class Origin:
    """nginx with three files, with TLS and without; a worker per core, or it would be what bounds those who leave
    visitors' TLS to it."""

    def __init__(self, world, large):
        root = world.folder / "root"
        root.mkdir()
        (root / "kib").write_bytes(os.urandom(1024))
        (root / "mib").write_bytes(os.urandom(MIB))
        with open(root / "large", "wb") as file:
            block = os.urandom(MIB)
            for _ in range(large):
                file.write(block)
        # What a tunnel is asked for until it is ready.
        (root / "index.html").write_text("the origin\n")
        self.plain, self.secured = free_port(), free_port()
        servers = ORIGIN.format(plain=self.plain, secured=self.secured, root=root, tls=_tls(world))
        self.process = nginx(world, "origin", "auto", servers)
        reached = Tunnel(f"http://127.0.0.1:{self.plain}", None, {})
        until("the origin answers", 10, lambda: world.curl(reached, KIB_FILE).status == 200)


def _tls(world):
    return TLS.format(cert=world.certificates.leaf, key=world.certificates.leaf_key)


def nginx(world, name, workers, servers):
    config = world.folder / f"{name}.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    text = NGINX.format(user=user, folder=world.folder, name=name, workers=workers, servers=servers)
    config.write_text(text)
    words = ["-p", world.folder, "-e", world.folder / f"{name}.err", "-c", config]
    return world.spawn([Nginx.find(), *words], name)


REVERSE_PROXIES = {one.name: one for one in (Nginx, Haproxy)}


def unlimited(world):
    """A server without the limits that a benchmark is there to reach, and with the keep-alive that is shipped."""
    for role in ("server", "client"):
        world.settings.setdefault(role, {})["link"] = None
    settings = world.settings["server"]
    settings["limits"] = {**dict.fromkeys(NO_LIMITS, "off"), "handshakes": MANY_HANDSHAKES}
    first = free_port()
    settings["listen"] = {"tcp_ports": f"{first}-{first}"}


def start(world, kind, origin, workers=None):
    """One to measure, that visitors reach with TLS."""
    subject = kind(world, workers)
    if kind in REVERSE_PROXIES.values():
        subject.start(origin)
    elif issubclass(kind, peers.Peer):
        subject.on_loopback()
        try:
            subject.start(origin.secured, secured=True)
        except BaseException:
            # Or its client would be started again and again beside the measures.
            subject.stop()
            raise
    else:
        subject.start(origin.plain)
    return subject


def start_bytes(world, kind, port, workers=None):
    """The same for plain bytes to `port`; where a visitor connects."""
    if issubclass(kind, peers.Peer):
        subject = kind(world, workers)
        subject.on_loopback()
        try:
            subject.start(port, answers=False)
        except BaseException:
            subject.stop()
            raise
        return subject, subject.public
    answer = world.first_client.ctl("open", f"tcp://127.0.0.1:{port}")
    subject = kind(world)
    return subject, int(answer["url"].rpartition(":")[2])


def lacking(names):
    """Which of the reverse proxies this machine has not, and why."""
    out = {}
    for name in names:
        try:
            REVERSE_PROXIES[name].find()
        except cache.Unavailable as reason:
            out[name] = str(reason)
    return out


def same_answer(world, subject):
    """That it really brings the file."""
    answer = world.curl(subject.tunnel, MIB_FILE)
    check(answer.status == 200 and len(answer.body) == MIB, f"{subject.name}: {answer.status}")
