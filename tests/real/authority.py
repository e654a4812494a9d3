"""Certificate authorities for the beds of ACME: Pebble with its DNS, and one that refuses."""

import contextlib
import http.server
import json
import pathlib
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import urllib.request

import cache
from harness import free_port, until


def newer_pebble():
    """The folder of Debian 13's Pebble, which knows renewal windows and short lives; it runs on Debian
    12 unchanged."""
    dpkg = cache.program("dpkg-deb", "dpkg")
    folder = cache.ROOT / "pebble"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            [package] = cache.packages_of("trixie", ["pebble"], folder)
        except OSError as error:
            raise cache.Unavailable(f"Debian's mirror: {error}") from None
        subprocess.run([dpkg, "-x", package, folder], check=True)
        (folder / "made").touch()
    return folder / "usr/bin"


def older_pebble():
    """Debian 12's."""
    return pathlib.Path(cache.program("pebble", "pebble")).parent


def any_pebble():
    """The newer one, or what the machine has."""
    try:
        return newer_pebble()
    except cache.Unavailable:
        return older_pebble()


class Authority:
    """Pebble and pebble-challtestsrv; `settings` go to its configuration."""

    def __init__(self, world, name="pebble", programs=None, **settings):
        self.world, self.name = world, name
        self.programs = programs or any_pebble()
        self.settings = settings
        self.folder = world.folder / name
        self.folder.mkdir()
        self.port, self.management, self.dns, self.dns_management = (free_port() for _ in range(4))
        self.url = f"https://127.0.0.1:{self.port}/dir"
        self.process = None
        self._keys()

    def _keys(self):
        openssl = cache.program("openssl", "openssl")
        self.root, key = str(self.folder / "root.pem"), str(self.folder / "root.key")
        self.leaf, self.leaf_key = str(self.folder / "leaf.pem"), str(self.folder / "leaf.key")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        for words in [
            ["-subj", "/CN=authority", "-keyout", key, "-out", self.root]
            + ["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
            ["-subj", "/CN=127.0.0.1", "-keyout", self.leaf_key, "-out", self.leaf]
            + ["-CA", self.root, "-CAkey", key, "-addext", "subjectAltName=IP:127.0.0.1"]
            + ["-addext", "basicConstraints=critical,CA:FALSE"],
        ]:
            command = [openssl, "req", "-x509", *curve, *words]
            subprocess.run(command, check=True, capture_output=True)

    def start(self, https, http=1, resolver=None, **env):
        """It looks at our ports `https` and `http`, and for names at `resolver`, else at its own DNS."""
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": self.leaf,
            "privateKey": self.leaf_key,
            "httpPort": http,
            "tlsPort": https,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            **self.settings,
        }
        config = self.folder / "pebble.json"
        config.write_text(json.dumps({"pebble": settings}))
        # In the server's own network, where that is one apart.
        beside = self.world.prefixes.get("server", [])
        if self.process is None:
            command = [self.programs / "pebble-challtestsrv", "-dns01", f"127.0.0.1:{self.dns}"]
            command += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
            # The newer one would listen for more than is asked for.
            is_newer = self.programs.parent.parent == cache.ROOT / "pebble"
            command += ["-doh", ""] if is_newer else []
            command += ["-management", f"127.0.0.1:{self.dns_management}", "-defaultIPv6", ""]
            self.world.spawn([*beside, *command], f"{self.name}-dns")
        command = [*beside, self.programs / "pebble", "-config", config, "-strict"]
        command += ["-dnsserver", f"127.0.0.1:{resolver or self.dns}"]
        env = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "5", **env}
        self.process = self.world.spawn(command, self.name, env=env)

        def up():
            with contextlib.suppress(OSError):
                return bool(self.issuer())

        until("the authority answers", 20, up)
        return self

    def issuer(self):
        """The root of what it issues."""
        context = ssl.create_default_context(cafile=self.root)
        url = f"https://127.0.0.1:{self.management}/roots/0"
        with self.world.inside(), urllib.request.urlopen(url, context=context, timeout=5) as answer:
            return answer.read().decode()

    def issuer_file(self):
        path = self.folder / "issuer.pem"
        path.write_text(self.issuer())
        return str(path)

    def dns_change(self, call, **what):
        """A call of challtestsrv's, such as `set-txt`."""
        url = f"http://127.0.0.1:{self.dns_management}/{call}"
        with urllib.request.urlopen(url, json.dumps(what).encode(), timeout=5):
            pass


class Refusing:
    """An authority with accounts (Pebble's) that takes no order: it answers `status`, `problem`, and with
    `retry_after`."""

    def __init__(self, authority, kind, detail, status=403, retry_after=None):
        self.orders = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, kind, body, **headers):
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                context = ssl.create_default_context(cafile=authority.root)
                with urllib.request.urlopen(authority.url, context=context, timeout=5) as answer:
                    directory = json.load(answer)
                directory["newOrder"] = f"{outer.base}/order"
                directory.pop("renewalInfo", None)
                self.answer(200, "application/json", json.dumps(directory).encode())

            def do_POST(self):
                outer.orders += 1
                self.rfile.read(int(self.headers["content-length"]))
                problem = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}
                body = json.dumps({**problem, "status": status}).encode()
                headers = {"retry_after": str(retry_after)} if retry_after else {}
                self.answer(status, "application/problem+json", body, **headers)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.leaf, authority.leaf_key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.base = f"https://127.0.0.1:{self.server.server_address[1]}"
        self.url = f"{self.base}/dir"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Delegation:
    """A resolver that follows a delegation: what begins with `_acme-challenge` goes to `delegated`, the
    rest to `others`; over UDP, and over TCP as asked
    or when an answer says so, as resolvers do."""

    def __init__(self, delegated, others):
        self.delegated, self.others = delegated, others
        self.port = free_port()
        outer = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self):
                question, reply = self.request
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                    asker.settimeout(5)
                    asker.sendto(question, ("127.0.0.1", outer.where(question)))
                    answer = asker.recv(4096)
                truncated = 0x02
                if answer[2] & truncated:
                    answer = outer.over_tcp(question)
                reply.sendto(answer, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self):
                while length := self.rfile.read(2):
                    question = self.rfile.read(int.from_bytes(length, "big"))
                    answer = outer.over_tcp(question)
                    self.wfile.write(len(answer).to_bytes(2, "big") + answer)

        class TcpServer(socketserver.ThreadingTCPServer):
            allow_reuse_address = True

        at = ("127.0.0.1", self.port)
        self.servers = [socketserver.ThreadingUDPServer(at, Udp), TcpServer(at, Tcp)]
        for server in self.servers:
            server.daemon_threads = True

    def where(self, question):
        return self.delegated if b"\x0f_acme-challenge" in question.lower() else self.others

    def over_tcp(self, question):
        with socket.create_connection(("127.0.0.1", self.where(question)), 5) as asker:
            asker.sendall(len(question).to_bytes(2, "big") + question)
            stream = asker.makefile("rb")
            return stream.read(int.from_bytes(stream.read(2), "big"))

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()


class Bind:
    """BIND 9 as the primary of one zone that takes updates signed with a key of its own."""

    def __init__(self, world, zone):
        named = cache.program("named", "bind9")
        keygen = cache.program("tsig-keygen", "bind9")
        folder = world.folder / "bind"
        folder.mkdir()
        self.port = free_port()
        self.key = folder / "key"
        words = [keygen, "-a", "hmac-sha512", "wormkey.acme"]
        made = subprocess.run(words, check=True, capture_output=True, text=True)
        self.key.write_text(made.stdout)
        self.key.chmod(0o600)
        (folder / "zone").write_text(
            f"$TTL 60\n@ IN SOA ns.{zone}. h.{zone}. 1 60 60 60 60\n@ IN NS ns.{zone}.\n"
            "ns IN A 127.0.0.1\n* IN A 127.0.0.1\n@ IN A 127.0.0.1\n"
        )
        (folder / "named.conf").write_text(
            f'include "{self.key}";\n'
            f'options {{ directory "{folder}"; pid-file none; session-keyfile "{folder}/s.key";'
            f" listen-on port {self.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};"
            " recursion no; dnssec-validation no; };\ncontrols { };\n"
            f'zone "{zone}" {{ type primary; file "{folder}/zone";'
            " update-policy { grant wormkey.acme zonesub TXT; }; };\n"
        )
        command = [named, "-g", "-c", folder / "named.conf"]
        self.process = world.spawn(command, "named")
        self.process.line(r"\brunning\b")


def certificates(server):
    """`certificates` of the status, by their first name."""
    return {one["names"][0]: one for one in server.status()["certificates"]}


def issued(server, name, seconds=60):
    """Waits until a certificate of that name is there and nothing is wrong with it."""

    def probe():
        one = certificates(server).get(name)
        return one if one and one["source"] == "acme" and one["renews_at"] else None

    return until(f"a certificate for {name}", seconds, probe, every=0.1)


def failing(server, name, said, seconds=30):
    """Waits until the status says what is wrong."""

    def probe():
        one = certificates(server).get(name)
        return one if one and said in (one["last_error"] or "") else None

    return until(f"the status says {said!r}", seconds, probe, every=0.1)


