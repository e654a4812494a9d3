"""nginx and haproxy in front of the server: the origin hears of the visitor, and of nobody's inventions."""

import contextlib
import copy
import json
import pathlib
import socket
import ssl

import cache
import origins
from harness import DOMAIN, Server, check, free_port, same, until
from registry import bed

# Visitors come from an address that neither the proxy nor the test's own programs have.
VISITOR = "127.0.0.77"
FORGED = ("-H", "X-Forwarded-For: 198.51.100.1", "-H", "Forwarded: for=198.51.100.1",
          "-H", "X-Real-IP: 198.51.100.1", "-H", "X-Forwarded-Proto: http")


def serve(world, public, **listen):
    """The world's server, behind something that listens on `public`."""
    world.settings["server"] = {"listen": {"public_port": public, **listen}}
    world.server = Server(world)
    return world.server.start()


def listening(process, port):
    """Waits for a proxy."""

    def probe():
        check(process.child.poll() is None, f"{process.name} ended:\n{process.text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True

    until(f"{process.name} listens", 20, probe)


def nginx(world, body):
    """nginx with this configuration around which a minimal one stands."""
    folder = world.folder / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    module = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if "stream {" in body and not module.exists():
        raise cache.Unavailable("nginx has no stream module; as root tests/run installs it")
    load = f"load_module {module};\n" if "stream {" in body else ""
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    body = body.replace("http {\n", "http {\n    access_log off;\n" + temporary)
    config.write_text(
        f"{load}daemon off;\npid {folder}/pid;\nerror_log stderr;\nworker_processes 1;\n"
        "events {}\n" + body
    )
    command = [cache.program("nginx", "nginx"), "-p", folder, "-e", "stderr", "-c", config]
    return world.spawn(command, "nginx")


def haproxy(world, body):
    config = world.folder / "haproxy.cfg"
    config.write_text(
        "global\n    log stdout format raw local0\n"
        "defaults\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n    timeout tunnel 60s\n"
        + body
    )
    return world.spawn([cache.program("haproxy", "haproxy"), "-db", "-f", config], "haproxy")


def bundle(world):
    """The leaf and its key in one file, as haproxy wants them."""
    ours = world.certificates
    path = world.folder / "bundle.pem"
    path.write_text(pathlib.Path(ours.leaf).read_text() + pathlib.Path(ours.leaf_key).read_text())
    return path


def at(tunnel, port, tls=True):
    """The same tunnel, at another port."""
    there = copy.copy(tunnel)
    there.port, there.tls = port, tls
    return there


def seen(world, tunnel, *flags):
    """The fields that the origin got of a visit."""
    answer = world.curl(tunnel, "/headers", "--interface", VISITOR, *flags)
    same((answer.status, answer.code), (200, 0), f"a visit {answer.stderr} {answer.body[:300]}")
    return dict(json.loads(answer.body))


def right_visitor(world, tunnel, scheme="https"):
    """Whatever visitors invent, the origin hears who they are."""
    for version in ("--http1.1", "--http2"):
        for forged in ((), FORGED):
            got = seen(world, tunnel, version, *forged)
            same(got.get("x-forwarded-for"), VISITOR, f"the visitor, {version} {forged}")
            same(got.get("x-forwarded-proto"), scheme, "the scheme")
            check(f"for={VISITOR}" in got.get("forwarded", ""), f"forwarded: {got}")
            check("198.51.100.1" not in json.dumps(got), f"an invention went through: {got}")


def past(world, tunnel, port):
    """The same name, asked at our own port, past the proxy."""
    direct = at(tunnel, port)
    return seen(world, direct, *FORGED)


@bed("front_haproxy")
def balancer(world):
    """haproxy in TCP mode leaves TLS alone and introduces visitors, in either version; who comes past
    it with such a header of his own is refused."""
    public = [free_port(), free_port()]
    server = serve(world, public[0], proxy_protocol_from=["127.0.0.5"])
    body = "".join(
        f"listen in{number}\n    mode tcp\n    bind 127.0.0.1:{port}\n"
        f"    server s 127.0.0.1:{server.port} source 127.0.0.5 {send}\n"
        for number, (port, send) in enumerate(zip(public, ("send-proxy-v2", "send-proxy")))
    )
    proxy = haproxy(world, body)
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        for port in public:
            listening(proxy, port)
            right_visitor(world, at(tunnel, port))
        same(tunnel.port, public[0], "the URL has the port that visitors see")
        # Past it nobody is introduced, and an introduction is no TLS.
        same(past(world, tunnel, server.port)["x-forwarded-for"], VISITOR, "a direct visitor")
        with socket.create_connection(("127.0.0.1", server.port), 10) as stranger:
            stranger.sendall(b"PROXY TCP4 198.51.100.1 127.0.0.1 1 443\r\n")
            context = ssl.create_default_context(cafile=tunnel.cafile)
            with contextlib.suppress(OSError):
                with context.wrap_socket(stranger, server_hostname=tunnel.host):
                    check(False, "a stranger's introduction was taken")
        # Whoever must introduce visitors and does not is not served.
        with socket.socket() as silent:
            silent.settimeout(20)
            silent.bind(("127.0.0.5", 0))
            silent.connect(("127.0.0.1", server.port))
            context = ssl.create_default_context(cafile=tunnel.cafile)
            with contextlib.suppress(OSError):
                with context.wrap_socket(silent, server_hostname=tunnel.host):
                    check(False, "a proxy without a header was served")


@bed("front_haproxy_http")
def terminating(world):
    """haproxy takes TLS off and speaks HTTP/1 or HTTP/2 to us."""
    plain, public = free_port(), [free_port(), free_port()]
    server = serve(
        world, public[0], plain_http=f"127.0.0.1:{plain}", trusted_proxies=["127.0.0.5"]
    )
    pem = bundle(world)
    body = "".join(
        f"listen in{number}\n    mode http\n    option forwardfor\n"
        f"    bind 127.0.0.1:{port} ssl crt {pem} alpn h2,http/1.1\n"
        "    http-request set-header X-Forwarded-Proto https\n"
        f"    server s 127.0.0.1:{plain} source 127.0.0.5 {more}\n"
        for number, (port, more) in enumerate(zip(public, ("", "proto h2")))
    )
    proxy = haproxy(world, body)
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        for port in public:
            listening(proxy, port)
            right_visitor(world, at(tunnel, port))
        # Past the proxy what one says of oneself changes nothing, on either listener.
        for port, url in ((server.port, "https"), (plain, "http")):
            direct = at(tunnel, port, url == "https")
            words = ("--resolve", f"{tunnel.host}:{port}:127.0.0.1")
            got = seen(world, direct, *words, *FORGED)
            same(got["x-forwarded-for"], VISITOR, f"a direct visitor over {url}")
            check("198.51.100.1" not in json.dumps(got), f"an invention went through: {got}")


@bed("front_nginx")
def web_server(world):
    """nginx takes TLS off, passes WebSockets on, and appends to what a visitor says of himself; and as
    a plain stream it introduces visitors."""
    plain, public, stream = free_port(), free_port(), free_port()
    server = serve(
        world,
        public,
        plain_http=f"127.0.0.1:{plain}",
        trusted_proxies=["127.0.0.5"],
        proxy_protocol_from=["127.0.0.6"],
    )
    ours = world.certificates
    proxy = nginx(
        world,
        "http {\n"
        "    map $http_upgrade $upgrading { default upgrade; '' ''; }\n"
        "    server {\n"
        f"        listen 127.0.0.1:{public} ssl http2;\n"
        f"        server_name *.{DOMAIN} {DOMAIN};\n"
        f"        ssl_certificate {ours.leaf};\n        ssl_certificate_key {ours.leaf_key};\n"
        "        location / {\n"
        f"            proxy_pass http://127.0.0.1:{plain};\n"
        "            proxy_bind 127.0.0.5;\n"
        "            proxy_http_version 1.1;\n"
        "            proxy_set_header Host $http_host;\n"
        "            proxy_set_header Upgrade $http_upgrade;\n"
        "            proxy_set_header Connection $upgrading;\n"
        "            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
        "            proxy_set_header X-Forwarded-Proto $scheme;\n"
        "        }\n    }\n}\n"
        "stream {\n    server {\n"
        f"        listen 127.0.0.1:{stream};\n"
        f"        proxy_pass 127.0.0.1:{server.port};\n"
        "        proxy_bind 127.0.0.6;\n        proxy_protocol on;\n    }\n}\n",
    )
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        for port in (public, stream):
            listening(proxy, port)
            right_visitor(world, at(tunnel, port))
