"""Conformance and attack suites of others, through a real tunnel. What needs compiling or minutes is
only with --long; the rest is a sample every day."""

import asyncio
import contextlib
import json
import pathlib
import re
import socket
import ssl
import statistics
import subprocess
import threading
import time

import cache
import origins
from harness import check, same
from registry import bed


class Canary:
    """An origin that keeps every byte that it gets, and answers each head."""

    def __init__(self):
        self.heard = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._listen, args=[connection], daemon=True).start()

    def _listen(self, connection):
        rest = b""
        with contextlib.suppress(OSError), connection:
            while piece := connection.recv(65536):
                self.heard += piece
                rest += piece
                while b"\r\n\r\n" in rest:
                    head, rest = rest.split(b"\r\n\r\n", 1)
                    # The end of a chunked body looks like one of a head; an answer to it would be taken for
                    # that to the next request.
                    if b" HTTP/1." in head:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary")


def raw(tunnel, sent, alpn="http/1.1", seconds=10):
    """What comes back to these bytes on a connection of their own, until its end."""
    context = ssl.create_default_context(cafile=tunnel.cafile)
    context.set_alpn_protocols([alpn])
    got = b""
    with socket.create_connection((tunnel.address, tunnel.port), timeout=seconds) as plain:
        with context.wrap_socket(plain, server_hostname=tunnel.host) as tls:
            with contextlib.suppress(OSError):
                tls.sendall(sent)
                while piece := tls.recv(65536):
                    got += piece
    return got


def status(answer):
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else None


# --- HTTP/2 -------------------------------------------------------------------------------------


@bed("h2spec")
def h2spec(world):
    """Strict, all cases: the edge's own HTTP/2, with a real visit behind each request."""
    program = cache.go_program("h2spec", "github.com/summerwind/h2spec/cmd/h2spec", list(H2SPEC))
    built = program.read_bytes()
    known = next(count for version, count in H2SPEC.items() if version.encode() in built)
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        # The suite names its host by address; the tunnel is found by its name.
        names = world.folder / "hosts"
        names.write_text(f"{tunnel.address} {tunnel.host}\n")
        command = [program, "-p", str(tunnel.port), "-t", "-k", "-S", "-o", "5", "-P", "/"]
        done = in_names(names, [*command, "-h", tunnel.host], 200)
        found = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done)
        check(found, f"h2spec says no result:\n{done[-3000:]}")
        tests, passed, skipped, failed = map(int, found.groups())
        world.say(f"{passed} of {tests} passed, {skipped} skipped")
        check((tests, passed, skipped, failed) == (known, known, 0, 0), done[-6000:])


# How many cases each has. The last release that module proxies have, where they do not have the commit, lacks
# one of them.
H2SPEC = {"af83a65f0b62": 147, "v2.2.1+incompatible": 146}


def in_names(names, command, seconds):
    """Runs a program that finds hosts in a file of ours; its output."""
    words = " ".join(f"'{word}'" for word in map(str, command))
    inside = f"mount --bind '{names}' /etc/hosts && exec {words}"
    unshare = cache.program("unshare", "util-linux")
    done = subprocess.run(
        [unshare, "--mount", "--propagation", "private", "sh", "-c", inside],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        raise cache.Unavailable("names of one's own take root")
    return done.stdout + done.stderr


# --- request smuggling --------------------------------------------------------------------------


def head_of(case):
    """The case as bytes, with a Host where it has none and a body that fits what it announces."""
    fields = case.get("headers") or []
    names = [str(field["name"]).lower() for field in fields]
    lines = [f"{case['method']} {case['uri']} {case['version']}"]
    if "host" not in names:
        lines.append("Host: HOST")
    for field in fields:
        value = field.get("value")
        value = "" if value is None else str(value)
        lines.append(f"{field['name']}: {value}")
    values = {name: str(field.get("value")).strip() for name, field in zip(names, fields)}
    body = b""
    if "transfer-encoding" in values:
        body = b"0\r\n\r\n"
    elif (size := values.get("content-length", "")).isdigit() and int(size) < 1 << 20:
        body = b"x" * int(size)
    head = "\r\n".join([*lines, "", ""])
    return head, body


@bed("desync", "python")
def desync(world):
    """http_desync_guardian's corpus: what is severe is refused and reaches nobody; what is ambiguous is
    refused or arrives as one request."""
    import yaml

    folder = cache.crate("http_desync_guardian", "0.1.3") / "tests"
    cases = []
    for file in sorted(folder.glob("*.yaml")):
        cases += [(file.stem, case) for case in yaml.safe_load(file.read_text()) or []]
    check(len(cases) >= 159, f"only {len(cases)} cases in {folder}")
    seen = {}
    with Canary() as canary:
        tunnel = world.open(canary.port)
        for origin, case in cases:
            tier = case["expected"]["tier"]
            head, body = head_of(case)
            canary.heard.clear()
            sent = head.replace("HOST", tunnel.netloc).encode("utf-8", "surrogateescape") + body
            follower = f"GET /follower HTTP/1.1\r\nHost: {tunnel.netloc}\r\nConnection: close\r\n\r\n"
            answer = raw(tunnel, sent + follower.encode())
            code = status(answer)
            heads = bytes(canary.heard).count(b" HTTP/1.1\r\n")
            refused = code is None or code >= 400
            kind = "refused" if refused else "forwarded"
            seen[tier, kind] = seen.get((tier, kind), 0) + 1
            said = f"{tier} {origin}: {case['name']}: {sent!r} -> {answer[:300]!r}, heard {canary.heard!r}"
            if tier == "Compliant" and refused:
                # A chain of codings, a fragment and an empty target are lawful, and refused here all the same.
                strict = "#" in head or "  HTTP" in head or "transfer-encoding" in head.lower()
                check(strict and code == 400, said)
            if tier == "Severe":
                check(refused and not canary.heard, said)
            if refused:
                check(not canary.heard, f"refused and forwarded: {said}")
            else:
                check(heads <= 2 and b"/follower" in canary.heard or heads == 1, said)
    world.say(", ".join(f"{n} {tier} {kind}" for (tier, kind), n in sorted(seen.items())))


@bed("smugglex", long=True)
def smugglex(world):
    program = cache.cargo_program("smugglex", "0.4.0")
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        names = world.folder / "hosts"
        names.write_text(f"{tunnel.address} {tunnel.host}\n")
        checks = "cl-te,te-cl,te-te,h2c,h2,cl-edge,cl-0,0-cl,parser-discrepancy,h2-downgrade"
        command = [program, "--json", "-k", "-c", checks, f"https://{tunnel.netloc}/"]
        said = in_names(names, command, 900)
        found = re.findall(r'"vulnerable":\s*(true|false)', said)
        check(found, f"smugglex says no result:\n{said[-3000:]}")
        check("true" not in found, said[-6000:])
        world.say(f"{len(found)} checks, no finding")


# --- WebSocket ----------------------------------------------------------------------------------


@contextlib.contextmanager
def echo_server():
    """Echoes every message; with compression, which the suite asks for too."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.server import serve

    def echo(socket):
        with contextlib.suppress(ConnectionClosed):
            for message in socket:
                socket.send(message)

    with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.socket.getsockname()[1]
        server.shutdown()


@contextlib.contextmanager
def without_tls(tunnel):
    """A port that leads to the tunnel, for programs whose TLS is of another age."""

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        inner = await asyncio.open_connection(
            tunnel.address,
            tunnel.port,
            ssl=tunnel.context(["http/1.1"]),
            server_hostname=tunnel.host,
        )
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)


@contextlib.contextmanager
def in_larger_pieces(port):
    """A port that leads to another of this machine, whose bytes are gathered for a moment."""

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while first := await reader.read(1):
                await asyncio.sleep(0.05)
                rest = b""
                with contextlib.suppress(TimeoutError):
                    rest = await asyncio.wait_for(reader.read(65536), 0.01)
                writer.write(first + rest)
        writer.close()

    async def serve(reader, writer):
        inner = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)


def verdicts(world, words, names, url, name, cases):
    reports = world.folder / f"autobahn-{name}"
    spec = world.folder / f"autobahn-{name}.json"
    server = {"agent": name, "url": url, "options": {"version": 18}}
    spec.write_text(
        json.dumps(
            {
                "options": {"failByDrop": False},
                "outdir": str(reports),
                "servers": [server],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    said = in_names(names, [*words, "-m", "fuzzingclient", "-s", str(spec)], 900)
    index = reports / "index.json"
    check(index.exists(), f"no report:\n{said[-3000:]}")
    # Named by what the server calls itself.
    agents = list(json.loads(index.read_text()).values())
    check(agents, f"not one case was run:\n{said[-3000:]}")
    found = agents[0]
    return {case: (of["behavior"], of["behaviorClose"]) for case, of in found.items()}


@bed("autobahn", "python")
def autobahn(world):
    """Every case has the same verdict through the tunnel as without it; all chapters with --long, of the two
    on compression, which are most of the suite's hours, the first cases of each section."""
    words = cache.autobahn()
    cases = ["1.1.*", "2.*", "3.*", "5.*", "10.*"]
    if world.long:
        cases = [f"{chapter}.*" for chapter in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
        sections = [("12", 5), ("13", 7)]
        cases += [f"{chapter}.{n + 1}.{case}" for chapter, count in sections for n in range(count) for case in (1, 2)]
    with echo_server() as port:
        tunnel = world.open(port)
        names = world.folder / "hosts"
        names.write_text(f"{tunnel.address} {tunnel.host}\n")
        direct = verdicts(world, words, names, f"ws://127.0.0.1:{port}", "direct", cases)
        with without_tls(tunnel) as relay:
            url = f"ws://{tunnel.host}:{relay}"
            through = verdicts(world, words, names, url, "tunnelled", cases)
            differ = [case for case in direct if direct[case] != through.get(case)]
            # A few verdicts hang on how the bytes of a case were cut on their way, which nobody promises: an
            # echo that is not out when the violation behind it arrives is never sent. Those are what the
            # origin itself gets when its bytes come in larger pieces.
            if differ:
                with in_larger_pieces(port) as slow:
                    url = f"ws://127.0.0.1:{slow}"
                    cut = verdicts(world, words, names, url, "larger", differ)
                differ = [case for case in differ if cut.get(case) != through.get(case)]
            differ = {case: (direct[case], through.get(case)) for case in differ}
    check(len(direct) > (200 if world.long else 40), f"only {len(direct)} cases")
    same(differ, {}, "cases with another verdict through the tunnel")
    world.say(f"{len(direct)} cases, the same verdict for each")


# --- TLS ----------------------------------------------------------------------------------------


@bed("tls-intermediate", "python")
def tls_intermediate(world):
    """Mozilla's intermediate profile, as sslyze reads it. Our own authority and leaf are not judged."""
    program = pathlib.Path(cache.python()).parent / "sslyze"
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        out = world.folder / "sslyze.json"
        command = [program, f"--json_out={out}", "--tlsv1", "--tlsv1_1", "--sslv2", "--sslv3"]
        command += ["--tlsv1_2", "--tlsv1_3", "--reneg", "--heartbleed", "--openssl_ccs", "--robot"]
        command += ["--compression", "--fallback", "--elliptic_curves", "--resum"]
        command += [f"--sni={tunnel.host}", f"{tunnel.address}:{tunnel.port}"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)
        result = json.loads(out.read_text())["server_scan_results"][0]["scan_result"]
        for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]:
            accepted = result[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
            same(accepted, [], version)
        suites = {}
        for version in ["tls_1_2", "tls_1_3"]:
            accepted = result[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
            suites[version] = {suite["cipher_suite"]["openssl_name"] for suite in accepted}
        check(suites["tls_1_2"] and suites["tls_1_2"] <= INTERMEDIATE, f"TLS 1.2: {suites}")
        check(suites["tls_1_3"] and suites["tls_1_3"] <= INTERMEDIATE_13, f"TLS 1.3: {suites}")
        bad = [
            ("heartbleed", "is_vulnerable_to_heartbleed"),
            ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"),
            ("tls_compression", "supports_compression"),
            ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"),
        ]
        for scan, fact in bad:
            same(result[scan]["result"][fact], False, f"{scan} {fact}")
        world.say(f"TLS 1.2 and 1.3 only, {len(suites['tls_1_2'] | suites['tls_1_3'])} suites")


INTERMEDIATE_13 = {
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
}
INTERMEDIATE = {
    f"ECDHE-{key}-{cipher}"
    for key in ["ECDSA", "RSA"]
    for cipher in ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]
} | {"DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-CHACHA20-POLY1305"}


@bed("testssl", long=True)
def testssl(world):
    """testssl.sh: nothing that it calls worse than a low risk, the private authority apart."""
    with origins.plain() as origin:
        no_risk(world, world.open(origin.port))


def no_risk(world, tunnel):
    """Has testssl.sh judge protocols, ciphers, forward secrecy and the known attacks."""
    program = cache.program("testssl", "testssl.sh")
    out = world.folder / "testssl.json"
    command = [program, "--quiet", "--color", "0", "--warnings", "batch", "--jsonfile", str(out)]
    command += ["-p", "-s", "-f", "-U", "--ip", tunnel.address, f"{tunnel.host}:{tunnel.port}"]
    subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=900)
    found = json.loads(out.read_text())
    bad = [one for one in found if one["severity"] in ("MEDIUM", "HIGH", "CRITICAL")]
    check(len(found) > 20, f"only {len(found)} findings in all")
    same([f"{one['id']}: {one['finding']}" for one in bad], [], "what testssl.sh found")
    world.say(f"{len(found)} findings, none worse than low")


# --- slowness -----------------------------------------------------------------------------------


def polite(world, tunnel, seconds):
    """How long the visits of somebody polite take."""
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # From an address of his own: that one address is held back is what limits are for.
        got = world.curl(tunnel, "/", "--interface", "127.0.0.9", seconds=10)
        same(got.status, 200, "a polite visit")
        took.append(got.seconds)
        time.sleep(0.05)
    return took


# What a busy machine adds to a visit of a few milliseconds says nothing.
NOISE = 0.025


@bed("slow-attacks")
def slow_attacks(world):
    """slowhttptest's three attacks; with --long by 2,000 connections at once. Each up to three times: what else
    the machine does weighs on one and not on the next, and a server that is slowed is slowed in each."""
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        for attack in [["-H", "-i", "5"], ["-B", "-i", "5"], ["-X", "-w", "1", "-y", "10", "-n", "5"]]:
            harmless = any(attacked(world, tunnel, attack) for _ in range(3))
            check(harmless, f"{attack}: polite visits were slowed each time")


def attacked(world, tunnel, attack):
    """Whether an attack left a polite visitor's median under twice what it is without one, before and after,
    and let none wait for a second."""
    program = cache.program("slowhttptest", "slowhttptest")
    nice = cache.program("nice", "coreutils")
    attackers, length = (2000, 40) if world.long else (300, 6)
    names = world.folder / "hosts"
    names.write_text(f"{tunnel.address} {tunnel.host}\n")
    calm = 5 if world.long else 1
    before = polite(world, tunnel, calm)
    url = f"https://{tunnel.netloc}{'/bytes/1000000' if '-X' in attack else '/'}"
    # What the attack costs its own machine is not what is measured.
    command = [nice, "-n", "10", program, *attack, "-c", attackers, "-r", 500, "-l", length, "-u", url]
    said = []
    thread = threading.Thread(target=lambda: said.append(in_names(names, command, length + 60)), daemon=True)
    thread.start()
    time.sleep(2)
    check(thread.is_alive(), f"the attack ended at once: {said}")
    during = polite(world, tunnel, length - 3)
    thread.join(length + 60)
    after = polite(world, tunnel, calm)
    alone = max(map(statistics.median, (before, after)))
    median, worst = statistics.median(during), max(during)
    world.say(
        f"{attack[0]} {attackers}: median {median * 1000:.0f} ms ({alone * 1000:.0f} ms alone),"
        f" worst {worst * 1000:.0f} ms"
    )
    return median < max(2 * alone, NOISE) and worst < 1.0
