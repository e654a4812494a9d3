"""The exposure guard's zoo: what must never be public by accident is refused by name, the harmless is
let through, and a healthy origin hardly notices. Real programs, but for those too large to bring here:
Docker, Elasticsearch, MongoDB, MySQL, etcd, Consul, Kubernetes, Spring, Go and Laravel are scripted by
what they answer."""

import contextlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import socketserver
import struct
import sys
import tempfile
import threading
import time

import cache
import origins
from harness import Tunnel, check, free_port, same, until
from registry import bed

LIMIT = 2.0


@bed("exposure", "python")
def zoo(world):
    client = world.first_client
    pages = world.folder / "pages"
    zoo = Zoo(world, pages)
    dangerous = list(zoo.dangerous())
    for name, target, found in dangerous:
        code, out, err = client.ctl_code("open", target)
        check(code == 4, f"{name} at {target} is refused: exit {code}\n{out}{err}")
        told = json.loads(err)
        same(told["code"], "exposed_origin", name)
        check(f"({found})" in err, f"{name} is told by its name {found}: {err}")
        check("--yes-expose" in err, f"{name}: the way out is told: {err}")
    same(client.ctl("list")["tunnels"], [], "the tunnels after all refusals")
    name, target, _ = dangerous[0]
    meant = client.open(target, "--yes-expose", "--name", "meant")
    again = client.ctl("open", target, "--name", "meant")
    same(again["id"], meant.json["id"], f"{name} was accepted once, and is the same tunnel again")
    client.ctl("close", "meant")
    harmless = list(zoo.harmless())
    slow = {"slow"}
    longest = ("", 0)
    for name, target in harmless:
        began = time.monotonic()
        code, out, err = client.ctl_code("open", target)
        took = time.monotonic() - began
        if name not in slow:
            longest = max(longest, (name, took), key=lambda one: one[1])
        if str(target).startswith("tcp:"):
            # The bed's server gives out no ports: it, and not the guard, has the last word.
            check(code == 0 or json.loads(err)["code"] != "exposed_origin", f"{name}: {err}")
        else:
            check(code == 0, f"{name} at {target} is let through: exit {code}\n{out}{err}")
        if code == 0:
            client.ctl("close", json.loads(out)["slug"])
    check(len(dangerous) >= 15 and len(harmless) >= 15, "fifteen of each")
    world.say(f"{len(dangerous)} dangerous refused, {len(harmless)} harmless let through")
    world.say(f"the slowest harmless open but for the slow origin: {longest[0]}, {longest[1]:.2f} s")
    cost(world, client)


def cost(world, client):
    """What the guard adds to an open: the median of some, with and without it."""
    with origins.plain() as origin:

        def median(*flags):
            took = []
            for _ in range(7):
                began = time.monotonic()
                slug = client.ctl("open", origin.port, *flags)["slug"]
                took.append(time.monotonic() - began)
                client.ctl("close", slug)
            return sorted(took)[3]

        added = median() - median("--yes-expose")
    check(added < LIMIT, f"the guard adds {added:.2f} s")
    world.say(f"the guard adds {added * 1000:.0f} ms to the open of a healthy origin")


@bed("exposure_late")
def late(world):
    """An origin that is not there at open is looked at before the first visit reaches it."""
    client, port = world.first_client, free_port()
    tunnel = client.open(port)
    check(tunnel.json["warnings"], "nothing listens yet, and that is told")
    same(world.curl(tunnel).status, 502, "a visit while nobody is there")
    seen = []

    def api(path):
        seen.append(path)
        if path == "/version":
            return 200, "application/json", DOCKER
        return 404, "text/plain", "no"

    with serving(api, port):
        refused = world.curl(tunnel, "/containers/json")
        same((refused.status, refused.error), (403, "exposed_origin"), "the first visit")
        check("/containers/json" not in seen, "nothing of the visit reached the origin")
        shown = client.show(tunnel.slug)
        same(shown["state"], "withheld", "its state")
        check("docker-api" in shown["warnings"][0], f"why: {shown['warnings']}")
    with serving(lambda _: (200, "text/plain", "hello"), port):
        until("the mended origin is public", 15, lambda: world.curl(tunnel).status == 200, 0.5)
        same(client.show(tunnel.slug)["state"], "open", "its state when mended")
    with serving(api, port):
        code, _, err = client.ctl_code("open", port, "--name", tunnel.slug)
        same(code, 4, f"the same tunnel is asked for again: {err}")
        same(world.curl(tunnel).status, 403, "a visit after that")
        client.ctl("open", port, "--name", tunnel.slug, "--yes-expose")
        same(world.curl(tunnel, "/version").status, 200, "a visit once it is meant")
    declared(world)


def declared(world):
    """Declared tunnels are withheld, with a word in `status`, until their entry says that it is meant."""
    with serving(lambda path: (200, "application/json", DOCKER if path == "/version" else "{}")) as port:
        client = world.client()
        entry = f'\n[[tunnel]]\nname = "docks"\ntarget = {port}\n'
        plain = client.config.read_text()
        client.config.write_text(plain + entry)
        client.ctl("reload")
        until("the problem is told", 10, lambda: "docker-api" in str(client.status()["problems"]))
        url = until("it is open", 10, lambda: client.show("docks").get("url"))
        tunnel = Tunnel(url, world.certificates.ca, {"slug": "docks"}, world.address, world.inside)
        same(world.curl(tunnel).error, "exposed_origin", "a visit")
        client.config.write_text(plain + entry + "yes_expose = true\n")
        client.ctl("reload")
        same(world.curl(tunnel).status, 200, "a visit once the entry says that it is meant")
        same(client.status()["problems"], [], "no problem is left")


DOCKER = json.dumps({"Version": "28.5", "ApiVersion": "1.51", "MinAPIVersion": "1.24"})


class Zoo:
    """Starts each animal and answers where it is; all end with the bed."""

    def __init__(self, world, folder):
        self.world, self.folder = world, folder
        folder.mkdir()
        self.python = cache.zoo()

    def within(self, manager):
        return self.world.undo.enter_context(manager)

    def web(self, **pages):
        """A server of these pages by path; `any` for all others."""

        def answer(path):
            return pages.get(path, pages.get("any", (404, "text/plain", "not found\n")))

        return self.within(serving(answer))

    def api(self, path, body, kind="application/json"):
        text = body if isinstance(body, str) else json.dumps(body)
        return self.web(**{path: (200, kind, text)})

    def program(self, name, port, *words, **kwargs):
        """A real one; returns when it takes connections."""
        env = {"PATH": f"{pathlib.Path(words[0]).parent}:{self.world.env['PATH']}"}
        process = self.world.spawn(words, name, {**env, **kwargs.pop("env", {})}, **kwargs)

        def up():
            check(process.child.poll() is None, f"{name} ended:\n{process.text()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True

        until(f"{name} listens", 60, up)
        return port

    def site(self, name, **files):
        root = self.folder / name
        for path, text in files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return root

    def dangerous(self):
        port = free_port()
        redis = cache.program("redis-server", "redis-server")
        self.program("redis", port, redis, *["--port", port, "--save", "", "--appendonly", "no"])
        yield "Redis", port, "redis-open"
        yield "Redis in tcp", f"tcp://localhost:{port}", "redis-open"
        port = free_port()
        memcached = cache.program("memcached", "memcached")
        self.program("memcached", port, memcached, "-p", port, "-l", "127.0.0.1", "-u", "nobody")
        yield "memcached", f"tcp://localhost:{port}", "memcached-open"
        trust = self.postgres("trust")
        yield "PostgreSQL that trusts", f"tcp://localhost:{trust}", "postgres-trust"
        self.scram = self.postgres("scram-sha-256")
        yield "PostgreSQL behind http", self.scram, "postgres"
        yield "Jupyter without a token", self.jupyter(""), "jupyter-open"
        yield "python -m http.server", self.python_files(self.site("list", **{"a.txt": "a"})), "directory-listing"
        git = self.site("git", **{"index.html": "hello", ".git/HEAD": "ref: refs/heads/main\n"})
        yield "a site with .git", self.python_files(git), "git-folder"
        env = self.site("env", **{"index.html": "hello", ".env": "SECRET_KEY=abc\nDEBUG=1\n"})
        yield "a site with .env", self.python_files(env), "env-file"
        yield "nginx with autoindex", self.nginx("nginx-list", "list", "autoindex on;"), "directory-listing"
        yield "Flask in debug mode", self.flask("flask-debug", True), "werkzeug-console"
        yield "Django in debug mode", self.django("django-debug", True), "django-debug"
        info = self.site("php", **{"index.php": "hello", "info.php": "<?php phpinfo();"})
        yield "PHP with phpinfo()", self.php("php-info", info), "phpinfo"
        port, (node, _) = free_port(), cache.node_programs()
        words = [f"--inspect=127.0.0.1:{port}", "-e", "setInterval(() => {}, 1000)"]
        yield "node --inspect", self.program("node", port, node, *words), "node-inspector"
        yield "a folder with a key", self.keys(), "private-key"
        # From here on scripted.
        yield "Docker", self.api("/version", DOCKER), "docker-api"
        search = {"name": "a", "cluster_name": "docker", "version": {"number": "9.1", "lucene_version": "10"}}
        yield "Elasticsearch", self.api("/", search), "elasticsearch-open"
        mongodb = self.within(speaking(mongodb_answer))
        yield "MongoDB", f"tcp://localhost:{mongodb}", "mongodb-open"
        greeting = b"\x0a8.0.44\0\x08\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15"
        greeting = struct.pack("<I", len(greeting)) + greeting
        yield "MySQL behind http", self.within(speaking(None, greeting)), "mysql"
        yield "etcd", self.api("/version", {"etcdserver": "3.6.5", "etcdcluster": "3.6.0"}), "etcd"
        agent = {"Config": {"Datacenter": "dc1", "NodeName": "a"}, "Member": {}}
        yield "Consul", self.api("/v1/agent/self", agent), "consul-open"
        pods = {"kind": "PodList", "apiVersion": "v1", "items": []}
        yield "a kubelet", self.api("/pods", pods), "kubelet-open"
        links = {"_links": {"heapdump": {"href": "http://localhost/actuator/heapdump"}}}
        yield "Spring's actuator", self.api("/actuator", links), "spring-actuator"
        profiles = "<title>/debug/pprof/</title><a href='goroutine?debug=1'>goroutine</a>"
        yield "Go's profiler", self.api("/debug/pprof/", profiles, "text/html"), "go-pprof"
        ignition = {"can_execute_commands": True}
        yield "Laravel's Ignition", self.api("/_ignition/health-check", ignition), "laravel-ignition"

    def harmless(self):
        page = (200, "text/html", "<!doctype html><title>App</title><div id=root></div>")
        yield "a single-page app", self.web(any=page)
        yield "Vite", self.vite()
        yield "nginx", self.nginx("nginx-plain", "git", "location ~ /\\. { return 404; }")
        yield "Flask", self.flask("flask", False)
        yield "Django", self.django("django", False)
        yield "PHP", self.php("php-plain", self.site("hello", **{"index.php": "<?php echo 'hello';"}))
        yield "Jupyter with a token", self.jupyter("a-token-of-the-bed")
        yield "gRPC", self.grpc()
        yield "WebSocket only", self.websocket()
        yield "server-sent events", self.within(speaking(lambda _: EVENTS, hold=True))
        yield "slow", self.within(serving(lambda _: time.sleep(3) or page))
        yield "nothing but 404", self.web()
        yield "nothing but redirects", self.web(any=(302, "text/plain", "elsewhere"))
        yield "a JSON API", self.web(any=(200, "application/json", '{"version": "1.0", "items": []}'))
        talk = "<title>How to hide a folder</title><h1>On Index of /</h1><pre>Index of /</pre>"
        yield "a page about Index of /", self.web(any=(200, "text/html", talk))
        yield "an echo", self.within(serving(lambda path: (200, "text/plain", f"NAME={path}\n")))
        yield "only asks for a login", self.web(any=(401, "text/plain", "who?"))
        ssh = self.within(speaking(None, b"SSH-2.0-x\r\n"))
        yield "ssh in tcp", f"tcp://localhost:{ssh}"
        port = free_port()
        redis = cache.program("redis-server", "redis-server")
        words = ["--port", port, "--save", "", "--requirepass", "of-the-bed"]
        self.program("redis-password", port, redis, *words)
        yield "Redis with a password", f"tcp://localhost:{port}"
        yield "PostgreSQL with a password", f"tcp://localhost:{self.scram}"
        hidden = self.world.first_client.files / "hidden"
        hidden.mkdir()
        for name in ["index.html", ".env", "id_ed25519.pub"]:
            (hidden / name).write_text("A=b\n")
        yield "a folder whose .env is not served", f"file:{hidden}"
        yield "nobody there yet", free_port()

    def python_files(self, root):
        port = free_port()
        words = ["-m", "http.server", port, "--bind", "127.0.0.1", "--directory", root]
        return self.program(f"files-{root.name}", port, sys.executable, *words)

    def keys(self):
        root = self.world.first_client.files / "site"
        root.mkdir()
        (root / "index.html").write_text("hello")
        shutil.copy(self.world.certificates.leaf_key, root / "server.pem")
        return f"file:{root}"

    def postgres(self, method):
        """Not as root, which PostgreSQL refuses, so outside the bed's own folder."""
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            cache.program("initdb", "postgresql")
        programs, root = found[-1].parent, pathlib.Path(tempfile.mkdtemp(prefix="wk-pg-"))
        self.world.undo.callback(shutil.rmtree, root, ignore_errors=True)
        who = {"user": "nobody"} if os.getuid() == 0 else {}
        if who:
            shutil.chown(root, "nobody")
        data, secret = root / "data", root / "password"
        secret.write_text("of-the-bed\n")
        secret.chmod(0o644)
        words = [programs / "initdb", "-D", data, "-U", "postgres", f"--auth={method}"]
        words += ["--no-sync", f"--pwfile={secret}"]
        made = self.world.spawn(words, f"initdb-{method}", cwd=root, **who)
        same(made.child.wait(90), 0, f"initdb: {made.text()[-2000:]}")
        port = free_port()
        words = [programs / "postgres", "-D", data, "-p", port, "-k", root, "-F"]
        return self.program(f"postgres-{method}", port, *words, cwd=root, **who)

    def jupyter(self, token):
        port, name = free_port(), f"jupyter-{token or 'open'}"
        root = self.folder / name
        root.mkdir()
        words = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--port={port}"]
        words += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"]
        words += [f"--IdentityProvider.token={token}", "--ServerApp.password="]
        program = [sys.executable, "-m", "jupyter", "lab", *words]
        self.program(name, port, *program, cwd=root, env={"PYTHONDONTWRITEBYTECODE": "1"})
        itself = Tunnel(f"http://127.0.0.1:{port}", None, {})
        until("Jupyter answers", 90, lambda: self.world.curl(itself, "/api").status == 200)
        return port

    def nginx(self, name, site, extra):
        port, root = free_port(), self.folder / f"{name}-run"
        root.mkdir()
        served = self.folder / site
        config = root / "nginx.conf"
        config.write_text(
            f"daemon off; pid {root}/pid; error_log stderr; events {{}}\n"
            + ("user root;\n" if os.getuid() == 0 else "")
            + "http { access_log off;\n"
            + "".join(
                f"{kind}_temp_path {root}/{kind};\n"
                for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            )
            + f"server {{ listen 127.0.0.1:{port}; root {served}; {extra} }} }}\n"
        )
        nginx = cache.program("nginx", "nginx-light")
        return self.program(name, port, nginx, "-c", config, "-p", root)

    def flask(self, name, debug):
        port, root = free_port(), self.site(name, **{"app.py": FLASK})
        words = ["-m", "flask", "--app", "app", "run", "--port", port]
        words += ["--debug"] if debug else ["--no-debug"]
        return self.program(name, port, self.python, *words, cwd=root)

    def django(self, name, debug):
        port, root = free_port(), self.site(name, **{"app.py": DJANGO})
        words = ["app.py", "runserver", "--noreload", f"127.0.0.1:{port}"]
        return self.program(name, port, self.python, *words, cwd=root, env={"DEBUG": str(int(debug))})

    def php(self, name, root):
        port, php = free_port(), cache.program("php", "php-cli")
        return self.program(name, port, php, "-S", f"127.0.0.1:{port}", "-t", root)

    def vite(self):
        port, (node, folder) = free_port(), cache.node()
        root = self.site("vite", **{"index.html": "<!doctype html><title>Vite</title>"})
        vite = folder / "node_modules/vite/bin/vite.js"
        words = [vite, "--host", "127.0.0.1", "--port", port, "--strictPort"]
        return self.program("vite", port, node, *words, cwd=root)

    def grpc(self):
        import concurrent.futures

        import grpc

        server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.world.undo.callback(lambda: server.stop(0).wait(5))
        return port

    def websocket(self):
        import websockets.sync.server

        server = websockets.sync.server.serve(lambda socket: None, "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.world.undo.callback(server.shutdown)
        return server.socket.getsockname()[1]


FLASK = """
import flask
app = flask.Flask(__name__)
app.route("/")(lambda: "hello")
"""

DJANGO = """
import os, sys
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse("hello"))]
if __name__ == "__main__":
    settings.configure(DEBUG=os.environ["DEBUG"] == "1", ROOT_URLCONF="__main__",
                       SECRET_KEY="of-the-bed", ALLOWED_HOSTS=["*"])
    execute_from_command_line(sys.argv)
"""

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n"


def mongodb_answer(asked):
    """The reply to listDatabases; nothing to what is no OP_MSG."""
    if asked[12:16] != struct.pack("<I", 2013) or b"listDatabases\0" not in asked:
        return b""
    databases = b"\x04databases\0" + struct.pack("<I", 5) + b"\0"
    fields = databases + b"\x01ok\0" + struct.pack("<d", 1.0)
    document = struct.pack("<I", 4 + len(fields) + 1) + fields + b"\0"
    body = struct.pack("<I", 0) + b"\0" + document
    return struct.pack("<IIII", 16 + len(body), 7, *struct.unpack("<I", asked[4:8]), 2013) + body


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, *_):
        pass


@contextlib.contextmanager
def serving(answer, port=0):
    """An HTTP server that answers GETs with `answer(path)`: status, kind, text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            status, kind, text = answer(self.path)
            body = text.encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

    server = _Quiet(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def speaking(answer, greeting=b"", hold=False):
    """A server of bytes: says its greeting, then `answer(asked)` to what it hears first."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with contextlib.suppress(OSError):
                self.request.settimeout(10)
                self.request.sendall(greeting)
                asked = self.request.recv(4096)
                if answer:
                    self.request.sendall(answer(asked))
                while hold and self.request.recv(4096):
                    pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_):
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
