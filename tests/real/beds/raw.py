"""Tunnels of bytes and datagrams: psql, ssh and redis-cli through tcp://, dig and an echo through
udp://, openssl s_client through tls://."""

import contextlib
import os
import pathlib
import pwd
import re
import shutil
import socket
import subprocess
import threading

import cache
from harness import DOMAIN, check, free_port, same, until
from registry import bed

# Under the ports that the system gives to connections.
PORTS = "21000-21199"


def open_raw(world, target, *flags):
    """(host, port) for visitors, and what `open` said; in direct mode the origin itself."""
    if world.direct:
        return ("127.0.0.1", int(target.rsplit(":", 1)[1])), {}
    listen = world.settings.setdefault("server", {}).setdefault("listen", {})
    listen["tcp_ports"] = PORTS
    tunnel = world.first_client.open(target, "--yes-expose", *flags)
    return (world.address, tunnel.port), tunnel.json


def done(world, *command, stdin=None, seconds=30, **env):
    """A program's exit code, output and errors."""
    ran = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env={**world.env, **env},
        timeout=seconds,
    )
    return ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace")


def said(world, *command, **kwargs):
    code, out, err = done(world, *command, **kwargs)
    check(code == 0, f"{command[0]}: exit {code}\n{out}{err}")
    return out


def accepts(port):
    """Whether somebody listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True


def postgres(world, port):
    """A PostgreSQL of the bed's own; as root under Debian's account, since it refuses root."""
    programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise cache.Unavailable("no postgresql; as root tests/run installs it")
    folder = world.folder / "postgres"
    folder.mkdir()
    prefix = []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        user = pwd.getpwnam("postgres")
        for path in (folder, world.folder):
            os.chmod(path, 0o755)
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = folder / "data"
    env = {"HOME": str(folder), "TMPDIR": str(folder)}
    initdb = [*prefix, programs[-1] / "initdb", "-D", data, "-U", "ada", "-A", "trust", "-N"]
    said(world, *initdb, seconds=120, **env)
    words = ["-D", data, "-p", port, "-k", folder, "-c", "listen_addresses=127.0.0.1"]
    words += ["-c", "fsync=off"]
    world.spawn([*prefix, programs[-1] / "postgres", *words], "postgres", env)
    ready = [programs[-1] / "pg_isready", "-h", "127.0.0.1", "-p", port]
    until("PostgreSQL is ready", 60, lambda: done(world, *ready)[0] == 0)


@bed("psql", direct=True)
def psql(world):
    program, port = cache.program("psql", "postgresql-client"), free_port()
    postgres(world, port)
    (host, port), _ = open_raw(world, f"tcp://127.0.0.1:{port}")
    ask = [program, "-h", host, "-p", port, "-U", "ada", "-d", "postgres", "-X", "-q", "-t", "-A"]
    same(said(world, *ask, "-c", "select 6*7").strip(), "42", "what PostgreSQL says")
    rows = said(world, *ask, "-c", "select g, repeat('x', 200) from generate_series(1, 20000) g")
    same(len(rows.splitlines()), 20000, "rows of a long answer")
    copied = "".join(f"{n}\tname {n}\n" for n in range(20000)).encode()
    said(world, *ask, "-c", "create table t (n int, name text)")
    said(world, *ask, "-c", "copy t from stdin", stdin=copied)
    same(said(world, *ask, "-c", "select count(*), max(n) from t").strip(), "20000|19999", "copied")


@bed("ssh", direct=True)
def ssh(world):
    client = cache.program("ssh", "openssh-client")
    server = shutil.which("sshd") or "/usr/sbin/sshd"
    if not os.path.exists(server):
        raise cache.Unavailable("no sshd; as root tests/run installs openssh-server")
    keygen, folder, port = cache.program("ssh-keygen", "openssh-client"), world.folder, free_port()
    for name in ("host", "user"):
        said(world, keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    user = pwd.getpwuid(os.geteuid()).pw_name
    words = ["-D", "-e", "-f", "/dev/null", "-h", folder / "host", "-p", port]
    for option in (
        "ListenAddress=127.0.0.1",
        f"AuthorizedKeysFile={folder}/user.pub",
        "StrictModes=no",
        "UsePAM=no",
        "PidFile=none",
        "PermitRootLogin=yes",
    ):
        words += ["-o", option]
    world.spawn([server, *words], "sshd")
    until("sshd listens", 20, lambda: accepts(port))
    (host, port), _ = open_raw(world, f"tcp://127.0.0.1:{port}")
    ask = [client, "-F", "none", "-i", folder / "user", "-p", port, "-l", user]
    for option in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"):
        ask += ["-o", option]
    same(said(world, *ask, host, "echo $((6*7))").strip(), "42", "what the shell says")
    same(done(world, *ask, host, "exit 7")[0], 7, "the command's exit code")
    data = os.urandom(4 * 1024 * 1024).hex().encode()
    back = said(world, *ask, host, "cat", stdin=data)
    check(back.encode() == data, "eight megabytes come back as they went")


@bed("redis", direct=True)
def redis(world):
    client = cache.program("redis-cli", "redis-tools")
    server, port = cache.program("redis-server", "redis-server"), free_port()
    words = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", world.folder]
    world.spawn([server, *words], "redis")
    until("redis listens", 20, lambda: accepts(port))
    # A database that asks nobody for a password: what it is, is known here.
    (host, port), _ = open_raw(world, f"tcp://127.0.0.1:{port}")
    ask = [client, "-h", host, "-p", port]
    same(said(world, *ask, "set", "k", "v" * 100_000).strip(), "OK", "set")
    same(said(world, *ask, "get", "k").strip(), "v" * 100_000, "get")
    many = "".join(f"SET key{n} {n}\n" for n in range(10_000)).encode()
    check("errors: 0, replies: 10000" in said(world, *ask, "--pipe", stdin=many), "10,000 in a pipe")


@bed("dig", direct=True)
def dig(world):
    program = cache.program("dig", "bind9-dnsutils")
    server, port = cache.program("dnsmasq", "dnsmasq-base"), free_port()
    words = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]
    words += ["--listen-address=127.0.0.1", "--bind-interfaces", "--no-daemon", f"--port={port}"]
    words += ["--user=", "--pid-file=", "--address=/app.test/192.0.2.7", "--edns-packet-max=4096"]
    # More than one packet of the link: 4,000 bytes of text.
    words += ["--txt-record=long.test," + ",".join(f"{n:03}" + "x" * 240 for n in range(14))]
    world.spawn([server, *words], "dnsmasq")
    local = [program, "@127.0.0.1", "-p", port, "+short", "+tries=5", "+time=2"]
    until("dnsmasq answers", 20, lambda: "192.0.2.7" in done(world, *local, "app.test")[1])
    (host, port), _ = open_raw(world, f"udp://127.0.0.1:{port}")
    ask = [program, f"@{host}", "-p", port, "+tries=5", "+time=2", "+notcp", "+ignore"]
    for _ in range(20):
        same(said(world, *ask, "+short", "app.test").strip(), "192.0.2.7", "the address")
    long = said(world, *ask, "+bufsize=4096", "+short", "long.test", "TXT")
    same(long.count("x" * 240), 14, "texts of an answer of 3,500 bytes over UDP")


def echo_udp():
    """A UDP echo in a thread; its socket."""
    origin = socket.socket(type=socket.SOCK_DGRAM)
    origin.bind(("127.0.0.1", 0))

    def echo():
        with contextlib.suppress(OSError):
            while True:
                data, sender = origin.recvfrom(65_536)
                origin.sendto(data, sender)

    threading.Thread(target=echo, daemon=True).start()
    return origin


@bed("udp-echo", direct=True)
def udp_echo(world):
    origin = echo_udp()
    port = origin.getsockname()[1]
    at, _ = open_raw(world, f"udp://127.0.0.1:{port}")
    flows = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(64)]
    with contextlib.ExitStack() as stack:
        stack.callback(origin.close)
        for flow in flows:
            stack.enter_context(flow)
            flow.settimeout(0.5)
            flow.connect(at)
        lost = 0
        for turn in range(20):
            sent = [bytes([turn, n]) * 600 for n in range(len(flows))]
            for flow, data in zip(flows, sent):
                flow.send(data)
            for flow, data in zip(flows, sent):
                try:
                    got = flow.recv(65_536)
                    # One that came late is an earlier turn's, and still this flow's.
                    check(got[1] == data[1] and len(got) == 1200, "every flow gets its own back")
                except TimeoutError:
                    lost += 1
        check(lost <= 26, f"{lost} of 1,280 datagrams were lost on loopback")
        world.say(f"{lost} of 1,280 datagrams of 1,200 bytes lost, 64 flows")


@bed("tls-passthrough")
def tls_passthrough(world):
    openssl, folder, port = cache.program("openssl", "openssl"), world.folder, free_port()
    name = f"vault.{DOMAIN}"
    cert, key = folder / "own.pem", folder / "own.key"
    words = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=the origin's own", "-addext", f"subjectAltName=DNS:{name}"]
    said(world, openssl, "req", *words, "-keyout", key, "-out", cert)
    serve = ["s_server", "-accept", port, "-cert", cert, "-key", key, "-www", "-quiet"]
    world.spawn([openssl, *serve], "s_server")
    until("s_server listens", 20, lambda: accepts(port))
    tunnel = world.first_client.open(f"tls://127.0.0.1:{port}", "--name", "vault")
    same(tunnel.url, f"tls://{name}:{world.server.port}", "its address")
    at = f"{world.address}:{world.server.port}"
    ask = [openssl, "s_client", "-connect", at, "-servername", name, "-verify_return_error"]
    ask += ["-CAfile", cert, "-verify_hostname", name, "-quiet", "-no_ign_eof"]
    for version in ("-tls1_2", "-tls1_3"):
        code, out, err = done(world, *ask, version, stdin=b"GET / HTTP/1.0\r\n\r\n")
        check("the origin's own" in err and code == 0, f"{version}: the origin's certificate\n{err}")
    # Every other name is still ours.
    ours = [openssl, "s_client", "-connect", at, "-servername", f"web.{DOMAIN}"]
    out = said(world, *ours, stdin=b"")
    check(re.search(rf"subject=CN ?= ?{re.escape(DOMAIN)}", out), f"the server's certificate\n{out}")


def reset_seen(peer):
    """Whether the next thing a socket says is a reset."""
    try:
        while peer.recv(65_536):
            pass
        return False
    except ConnectionResetError:
        return True


def abort(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()


@bed("tcp-faithful", direct=True)
def tcp_faithful(world):
    """Half-close each way, reset each way, no bytes at all, a taken port."""
    origin = socket.create_server(("127.0.0.1", 0))
    origin.settimeout(20)
    at, tunnel = open_raw(world, f"tcp://127.0.0.1:{origin.getsockname()[1]}")
    if not world.direct:
        # The look that `open` took.
        origin.accept()[0].close()

    descriptors = {}
    if not world.direct:
        descriptors = {name: of.descriptors() for name, of in world.daemons().items()}

    def pair():
        visitor = socket.create_connection(at, 20)
        service, _ = origin.accept()
        service.settimeout(20)
        return visitor, service

    def whole(peer):
        parts = iter(lambda: peer.recv(65_536), b"")
        return b"".join(parts)

    for _ in range(20):
        visitor, service = pair()
        visitor.sendall(b"question")
        visitor.shutdown(socket.SHUT_WR)
        same(whole(service), b"question", "all of it, then the end")
        service.sendall(b"answer")
        service.close()
        same(whole(visitor), b"answer", "after the visitor's half-close")
        visitor.close()
        visitor, service = pair()
        service.sendall(b"first")
        service.shutdown(socket.SHUT_WR)
        same(whole(visitor), b"first", "the origin ends first")
        visitor.sendall(b"second")
        visitor.close()
        same(whole(service), b"second", "after the origin's half-close")
        service.close()
        visitor, service = pair()
        abort(visitor)
        check(reset_seen(service), "the visitor's reset reaches the origin")
        visitor, service = pair()
        abort(service)
        check(reset_seen(visitor), "the origin's reset reaches the visitor")
        visitor, service = pair()
        visitor.sendall(b"unread")
        service.sendall(b"last words")
        # What it has not read makes its close a reset.
        service.recv(1, socket.MSG_PEEK)
        service.close()
        same(visitor.recv(10, socket.MSG_WAITALL), b"last words", "what came before a reset")
        check(reset_seen(visitor), "and then the reset")
        visitor, service = pair()
        visitor.close()
        same(whole(service), b"", "no byte is no byte")
        service.close()
    if world.direct:
        return
    port = str(tunnel["public_port"])
    code, _, err = world.first_client.ctl_code("open", "tcp://127.0.0.1:9", "--public-port", port)
    same(code, 6, f"the exit code of a taken port: {err}")
    check("port_taken" in err, err)
    for name, process in world.daemons().items():
        many = descriptors[name] + 5
        until(f"{name} has let go of its sockets", 10, lambda: process.descriptors() <= many)
