"""Every kind of secret in one run, and then a search for them where none of them belongs."""

import base64
import contextlib
import http.client
import json
import pathlib
import re
import threading
import time
import urllib.parse

import origins
from authority import Authority, Bind, issued
from harness import DOMAIN, Server, Tunnel, check, same
from registry import bed

WILDCARD = f"*.{DOMAIN}"
FROM_FILE, WEBHOOK = "password-of-a-file", "secret-of-a-webhook-sender"
WRONG, QUERY = "wrong-guess-of-a-visitor", "query-of-a-visitor"
COOKIE, BODY = "cookie-of-a-visitor", "body-of-a-visitor"


def spellings(secret):
    """What a secret may look like: itself, hexadecimal, and base64 at each of its three offsets."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret)
        # The first and the last characters hold bits of what is around it.
        inner = text[(0, 2, 3)[before] : len(text.rstrip(b"=")) - (1 if (before + len(secret)) % 3 else 0)]
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


class Secrets:
    """What was given away in this run, by kind."""

    def __init__(self):
        self.kinds = {}

    def add(self, kind, secret):
        secret = secret.encode() if isinstance(secret, str) else secret
        check(len(secret) >= 12, f"{kind}: {secret!r} may be found anywhere")
        self.kinds[kind] = spellings(secret)

    def inside(self, text):
        return [kind for kind, found in self.kinds.items() if any(one in text for one in found)]


def private(der):
    """The private part of a PKCS#8 key, of either curve."""
    return re.search(rb"\x04\x20(.{32})", der, re.DOTALL)[1]


def keys_in(file):
    """The private parts of the keys in a file, PEM or DER."""
    content = pathlib.Path(file).read_bytes()
    blocks = re.findall(rb"-----BEGIN PRIVATE KEY-----(.*?)-----END", content, re.DOTALL)
    return [private(base64.b64decode(block)) for block in blocks] or [private(content)]


class Watch:
    """Reads command lines and environments of all processes of the machine while a block runs."""

    def __init__(self):
        self.seen = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._over.wait(0.05):
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        self.seen.add((name, (process / name).read_bytes()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def join(world, secrets):
    """A client that joins with a token, as a person would."""
    token = world.server.invite()
    secrets.add("the join token", token)
    body = token.removeprefix("wkj_")
    secrets.add("the join token's secret", base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))[-36:-4])
    client = world.stranger()
    client.ctl("join", "-", stdin=token + "\n")
    return client


def visit(world, slug, method="GET", path="/", body=None, **headers):
    """A visit that leaves no trace of its own on this machine; its status, and the cookie that it got."""
    tunnel = Tunnel(f"https://{slug}.{DOMAIN}:{world.server.port}", world.issuer, {})
    connection = http.client.HTTPConnection(tunnel.netloc)
    with contextlib.closing(connection):
        connection.sock = tunnel.dial()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, (answer.headers["set-cookie"] or "").partition(";")[0]


def passwords(world, client, port, secrets):
    """Made up, from a file, wrong, and what else a visitor says that is nobody else's business."""
    made = client.ctl("open", f"{port}", "--name", "made", "--auth")["credentials"]
    kept = world.folder / "password"
    kept.write_text(FROM_FILE + "\n")
    kept.chmod(0o600)
    client.ctl("open", f"{port}", "--name", "kept", "--auth", f"bob:@{kept}")
    secrets.add("a password that was made up", made["password"])
    secrets.add("a password from a file", FROM_FILE)
    for what in (WRONG, QUERY, COOKIE, BODY):
        secrets.add(what.replace("-", " "), what)
    for slug, user, password, expected in [
        ("made", made["user"], made["password"], 200),
        ("kept", "bob", FROM_FILE, 200),
        ("kept", "bob", WRONG, 401),
    ]:
        said = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"authorization": f"Basic {said}", "cookie": f"a={COOKIE}"}
        status, _ = visit(world, slug, "POST", f"/?token={QUERY}", BODY, **headers)
        same(status, expected, f"{slug} as {user}")


def shared(world, client, port, secrets):
    """A link that is opened, and the cookie that its visitor gets."""
    client.ctl("open", f"{port}", "--name", "shared", "--share")
    link = client.ctl("share", "shared", "--expires", "10m")["url"]
    parts = urllib.parse.urlsplit(link)
    path = link.removeprefix(f"{parts.scheme}://{parts.netloc}")
    secrets.add("a share link", re.split(r"[/=]", path)[-1])
    _, cookie = visit(world, "shared", path=path)
    secrets.add("a share's cookie", cookie.partition("=")[2])
    same(visit(world, "shared", cookie=cookie)[0], 200, "a visit with the cookie")


def webhook(world, client, port, secrets):
    """The secret of signatures that the edge checks."""
    kept = world.folder / "webhook"
    kept.write_text(WEBHOOK + "\n")
    kept.chmod(0o600)
    client.ctl("open", f"{port}", "--name", "hook", "--verify-webhook", f"github:@{kept}")
    secrets.add("a webhook's secret", WEBHOOK)
    same(visit(world, "hook", "POST", body="unsigned")[0], 401, "an unsigned call")


def certificate(world, secrets):
    """A wildcard from an authority, by updates of a zone that are signed with a key."""
    authority, zone = Authority(world), Bind(world, DOMAIN)
    secrets.add("the update key", base64.b64decode(re.search(r'secret "(.*?)"', zone.key.read_text())[1]))
    world.settings["server"] = {
        "tls": {"cert": None, "key": None, "mode": "acme"},
        "acme": {
            "ca": [authority.url],
            "root": authority.root,
            "dns.wait": "1s",
            "dns.update": f"127.0.0.1:{zone.port}",
            "dns.key": str(zone.key),
        },
    }
    world.server = Server(world)
    authority.start(world.server.port, resolver=zone.port)
    world.server.start()
    issued(world.server, WILDCARD)
    world.issuer = authority.issuer_file()
    folder = world.server.folder / "state/acme"
    account = next(folder.glob("account-*.json"))
    text = json.loads(account.read_text())["key_pkcs8"]
    secrets.add("the authority's account", private(base64.urlsafe_b64decode(text + "==")))
    check(secrets.inside(account.read_bytes()), "the account's key is found where it is")
    for key in keys_in(folder / f"wildcard.{DOMAIN}.pem"):
        secrets.add("the certificate's key", key)


@bed("secrets")
def everywhere(world):
    """Both daemons at their most talkative; command lines, environments, logs, databases with their
    journals, a backup and every answer of the admin API hold no secret."""
    world.log_level = "trace"
    secrets = Secrets()
    with Watch() as watch, origins.plain() as origin:
        certificate(world, secrets)
        client = join(world, secrets)
        passwords(world, client, origin.port, secrets)
        shared(world, client, origin.port, secrets)
        webhook(world, client, origin.port, secrets)
        backup = world.folder / "backup.db"
        world.server.ctl("backup", backup)
        for daemon in (world.server, client):
            key = daemon.folder / "state" / f"{daemon.role}.key"
            for one in keys_in(key):
                secrets.add(f"the {daemon.role}'s key", one)
            check(f"the {daemon.role}'s key" in secrets.inside(private_bytes(key)), "a key is found in its file")
        # The last line of a visit's log may come behind its answer.
        time.sleep(0.2)
    places = [(name, content) for name, content in watch.seen]
    for daemon in (world.server, client):
        places.append((f"the {daemon.role}'s log", daemon.process.log.read_bytes()))
        databases = sorted((daemon.folder / "state").glob(f"{daemon.role}.db*"))
        check(len(databases) >= 2, f"a database and its journal: {databases}")
        places += [(file.name, file.read_bytes()) for file in databases]
        paths = ["status", "tunnels", "drain", "log-level", "visits"]
        paths += ["devices", "users", "audit", "links", "doctor"] if daemon.role == "server" else []
        places += [(f"/v1/{path}", daemon.asked(f"/v1/{path}")) for path in paths]
        places.append(("/metrics", daemon.asked("/metrics")))
    places.append(("the backup", backup.read_bytes()))
    for place, content in places:
        same(secrets.inside(content), [], f"secrets in {place}")
    log = world.server.process.text()
    check("DEBUG" in log, "the log was at its most talkative")
    read = sum(len(content) for _, content in places)
    world.say(f"{len(secrets.kinds)} kinds of secrets in none of {len(places)} places, {read // 1024} KiB")


def private_bytes(file):
    """A key file with its PEM taken off."""
    return b"".join(keys_in(file))
