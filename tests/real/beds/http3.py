"""HTTP/3 by aioquic: what HTTP/2 can do it can, what breaks it is told apart, and floods of its port
stop no link."""

import asyncio
import contextlib
import http.client
import json
import os
import select
import socket
import threading
import time

import origins
from harness import MIB, PeakRss, check, limit, same, until
from registry import bed

NO_ERROR, STREAM_CREATION, CLOSED_CRITICAL = 0x100, 0x103, 0x104
FRAME_UNEXPECTED, FRAME_ERROR, EXCESSIVE_LOAD, ID_ERROR = 0x105, 0x106, 0x107, 0x108
SETTINGS_ERROR, MISSING_SETTINGS, CANCELLED, INCOMPLETE = 0x109, 0x10A, 0x10C, 0x10D
MESSAGE_ERROR, DECOMPRESSION, ENCODER, DECODER = 0x10E, 0x200, 0x201, 0x202


@bed("http3", "python")
def http3(world):
    """Answers, uploads, 64 streams at once, a download given up and one that moves house."""
    import quic

    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        told = world.curl(tunnel, "/").headers.get("alt-svc")
        same(told, f'h3=":{tunnel.port}"; ma=86400', "Alt-Svc")
        size = 32 * MIB
        quic.run(requests(quic, world, tunnel, size))
        deny(world, tunnel, ["/admin/**"])
        quic.run(many(quic, tunnel))
        quic.run(given_up(quic, tunnel))
        quic.run(moved(quic, world, tunnel))
        quic.run(elsewhere(quic, tunnel))


async def requests(quic, world, tunnel, size):
    async with quic.visit(tunnel) as visitor:
        got = await visitor.get("/")
        same((got.status, got.first), (200, b"hello from the origin\n"), "GET")
        check("date" in got.headers, "an answer without a date")
        got = await visitor.get(
            "/headers", ("x-forwarded-for", "6.6.6.6"), ("cookie", "a=1"), ("cookie", "b=2")
        )
        heads = dict(json.loads(got.first))
        same(heads.get("x-forwarded-for"), "127.0.0.1", "the visitor's address")
        same(heads.get("wormkey-http-version"), "3", "the visitor's version")
        same(heads.get("cookie"), "a=1; b=2", "one cookie field")
        got = await visitor.get("/bytes/1000", method="HEAD")
        same((got.status, got.headers["content-length"], got.size), (200, "1000", 0), "HEAD")
        sent = origins.BLOCK * 32
        for method, fields in {"POST": [("content-length", str(len(sent)))], "PUT": []}.items():
            got = await visitor.get("/sum", *fields, method=method, body=sent)
            answer = json.loads(got.first)
            same((got.status, answer["size"]), (200, len(sent)), method)
            same(answer["sha256"], origins.sha256_of(len(sent)), method)
        began = time.monotonic()
        with PeakRss(**world.daemons()) as peak:
            got = await visitor.ask(f"/bytes/{size}").whole(600)
        took = time.monotonic() - began
        same((got.status, got.size, got.sha256), (200, size, origins.sha256_of(size)), "a big body")
        world.say(f"{size // MIB} MiB over HTTP/3 in {took:.1f} s; {peak.said()}")


def deny(world, tunnel, paths):
    """Sets the tunnel's policy, as its client's program would."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.connect(str(world.first_client.socket))
        told = json.dumps({"policy": {"deny_paths": paths}, "parts": ["deny_paths"]})
        fields = {"Content-Type": "application/json"}
        connection.request("PATCH", f"/v1/tunnels/{tunnel.slug}", told, fields)
        same(connection.getresponse().status, 200, "a policy")


async def many(quic, tunnel):
    """64 streams at once, refusals among them, and nobody gets another's."""
    async with quic.visit(tunnel) as visitor:
        asked = []
        for at in range(64):
            match at % 4:
                case 0:
                    asked.append((200, visitor.ask(f"/bytes/{100_000 + at}")))
                case 1:
                    asked.append((403, visitor.ask("/x/..%2fadmin/y")))
                case 2:
                    asked.append(
                        (421, visitor.ask("/", host=f"other.{tunnel.host.partition('.')[2]}"))
                    )
                case 3:
                    asked.append((405, visitor.ask("/", method="TRACE")))
        for at, (status, reply) in enumerate(asked):
            await reply.whole()
            same(reply.status, status, f"stream {at}")
            if status == 200:
                same(
                    (reply.size, reply.sha256),
                    (100_000 + at, origins.sha256_of(100_000 + at)),
                    f"stream {at}",
                )


async def given_up(quic, tunnel):
    """Downloads that their visitor stops leave the connection as it is."""
    async with quic.visit(tunnel) as visitor:
        for _ in range(3):
            reply = visitor.ask(f"/bytes/{64 * MIB}")
            await asyncio.wait_for(reply.moved.wait(), 20)
            visitor._quic.stop_stream(reply.stream, CANCELLED)
            visitor.transmit()
            await asyncio.wait_for(reply.over.wait(), 20)
            check(reply.reset is not None, "a stopped download was not reset")
        same((await visitor.get("/")).status, 200, "after three that were given up")


async def moved(quic, world, tunnel):
    """The visitor's address changes twice in the middle of a download."""
    size = 4 * MIB
    async with quic.visit(tunnel) as visitor:
        reply = visitor.ask(f"/bytes/{size}")
        for part in (1, 2):
            while reply.size < part * size // 4:
                reply.moved.clear()
                await asyncio.wait_for(reply.moved.wait(), 20)
            check(not reply.over.is_set(), "too fast to be moved")
            await visitor.move()
        await reply.whole()
        same((reply.size, reply.sha256), (size, origins.sha256_of(size)), "a download that moved")
        world.say("a download went on from two other ports")


async def elsewhere(quic, tunnel):
    async with quic.visit(tunnel) as visitor:
        got = await visitor.get(
            "/", ("upgrade-insecure-requests", "1"), host=f"nobody.{tunnel.host.partition('.')[2]}"
        )
        same((got.status, got.error), (421, "misdirected"), "a host that the connection is not for")


HEAD = [(":method", "GET"), (":scheme", "https"), (":path", "/")]


@bed("http3_hostile", "python")
def http3_hostile(world):
    """Each thing that must not be has the error that the RFCs name, and costs nobody else anything."""
    import quic

    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        quic.run(all_of_them(quic, tunnel))
        quic.run(too_large(quic, tunnel))
        quic.run(useless(quic, tunnel))
        same(world.curl(tunnel, "/").status, 200, "another visitor")
        check("panicked" not in world.server.process.text(), "a panic")


async def all_of_them(quic, tunnel):
    """What the server says to each, while another visitor is served."""
    async with quic.visit(tunnel) as other:

        async def one(name, wanted, act):
            async with quic.visit(tunnel, raw=True) as visitor:
                act(visitor)
                seen = await visitor.error()
            told = f"{name}: expected {[hex(code) for code in wanted]}, saw {hex(seen)}"
            check(seen in wanted, told)
            same((await other.get("/")).status, 200, f"another visitor after {name}")

        await quic.together(one(name, *case) for name, case in cases(quic, tunnel).items())


def cases(quic, tunnel):
    """By name: the codes that are right, and what the visitor does."""
    frame, section, varint = quic.frame, quic.section, quic.varint
    head = [*HEAD, (":authority", tunnel.netloc)]
    get = frame(1, section(head))

    def on_control(data, settings=True):
        def act(visitor):
            visitor.uni(0, (frame(4) if settings else b"") + data)

        return act

    def asking(*parts, end=True):
        def act(visitor):
            visitor.begin()
            visitor.request(b"".join(parts), end)

        return act

    def fields(lines):
        return asking(frame(1, section(lines)))

    def twice(kind, data=b""):
        def act(visitor):
            visitor.uni(kind, data)
            visitor.uni(kind, data)

        return act

    def closing(kind, data=b""):
        def act(visitor):
            stream = visitor.uni(kind, data)
            visitor.send(stream, b"", True)

        return act

    def beside(kind, data):
        def act(visitor):
            visitor.begin()
            visitor.uni(kind, data)

        return act

    post = [(":method", "POST"), *head[1:]]
    malformed = {MESSAGE_ERROR}
    return {
        # The sixteen of HTTP/3 and QPACK that conformance tests look at.
        "a control stream without settings": (
            {MISSING_SETTINGS},
            on_control(frame(0xD, varint(1)), False),
        ),
        "two control streams": ({STREAM_CREATION}, twice(0, frame(4))),
        "a control stream that ends": ({CLOSED_CRITICAL}, closing(0, frame(4))),
        "DATA before HEADERS": ({FRAME_UNEXPECTED}, asking(frame(0, b"x"))),
        "a pseudo-header twice": (malformed, fields([*head, (":path", "/")])),
        "no :method": (malformed, fields(head[1:])),
        "an unknown pseudo-header": (malformed, fields([*head, (":foo", "bar")])),
        "a pseudo-header behind a field": (malformed, fields([("accept", "*/*"), *head])),
        "DATA on the control stream": ({FRAME_UNEXPECTED}, on_control(frame(0, b"x"))),
        "HEADERS on the control stream": ({FRAME_UNEXPECTED}, on_control(get)),
        "SETTINGS twice": ({FRAME_UNEXPECTED}, on_control(frame(4))),
        "CANCEL_PUSH on a request": (
            {FRAME_UNEXPECTED},
            asking(get, frame(3, varint(1)), end=False),
        ),
        "a setting of HTTP/2": ({SETTINGS_ERROR}, on_control(frame(4, b"\x02\x00"), False)),
        "a line that no table has": ({DECOMPRESSION}, asking(frame(1, b"\0\0\xff\x40"))),
        "a table larger than allowed": ({ENCODER}, beside(2, quic.number(0x20, 5, 4096))),
        "an increment of nothing": ({DECODER}, beside(3, b"\0")),
        # And more of the kind.
        "no :path": (malformed, fields([line for line in head if line[0] != ":path"])),
        "no :authority": (malformed, fields(HEAD)),
        "a response's pseudo-header": (malformed, fields([*head, (":status", "200")])),
        "an extended CONNECT": (malformed, fields([*head, (":protocol", "websocket")])),
        "a connection field": (malformed, fields([*head, ("connection", "close")])),
        "a transfer-encoding": (malformed, fields([*head, ("transfer-encoding", "chunked")])),
        "a name in upper case": (malformed, fields([*head, ("Accept", "*/*")])),
        "a body shorter than it says": (
            malformed,
            asking(frame(1, section([*post, ("content-length", "5")])), frame(0, b"abc")),
        ),
        "a body longer than it says": (
            malformed,
            asking(frame(1, section([*post, ("content-length", "1")])), frame(0, b"abc")),
        ),
        "no body where one is said to be": (malformed, fields([*post, ("content-length", "5")])),
        "a stream that ends without a request": ({INCOMPLETE}, asking(b"\x21\x00")),
        "half a frame": ({FRAME_ERROR}, asking(varint(1) + varint(100) + b"x")),
        "half a body": (
            {FRAME_ERROR},
            asking(frame(1, section(post)), varint(0) + varint(9) + b"x"),
        ),
        "PING of HTTP/2": ({FRAME_UNEXPECTED}, asking(get, frame(6, bytes(8)), end=False)),
        "a dynamic line": ({DECOMPRESSION}, asking(frame(1, b"\0\0\x80"))),
        "an insertion": ({ENCODER}, beside(2, b"\xc1\x01x")),
        "a push stream": ({STREAM_CREATION}, beside(1, varint(0))),
        "a goodbye that goes up": (
            {ID_ERROR},
            on_control(frame(7, varint(0)) + frame(7, varint(4))),
        ),
        "settings that break off": ({FRAME_ERROR}, on_control(frame(4, b"\x06"), False)),
        "three sections": (
            {FRAME_UNEXPECTED},
            asking(frame(1, section(post)), frame(1, section([("a", "b")])) * 2),
        ),
    }


async def too_large(quic, tunnel):
    """30,000 fields, and 10 MB of them."""
    head = [*HEAD, (":authority", tunnel.netloc)]
    async with quic.visit(tunnel) as visitor:
        got = await visitor.get("/", *[("a", str(at)) for at in range(120)])
        same((got.status, got.error), (431, "too_large"), "120 fields")
        got = await visitor.get("/", *[(f"a{at}", "v" * 500) for at in range(90)])
        same((got.status, got.error), (431, "too_large"), "45 KB of fields")
        same((await visitor.get("/", ("a", "v" * 20_000))).status, 200, "20 KB of fields")
    for lines in ([("a", "b")] * 30_000, [("a", "v" * 100_000)] * 100):
        await one_too_large(quic, tunnel, [*head, *lines])


async def one_too_large(quic, tunnel, lines):
    async with quic.visit(tunnel, raw=True) as visitor:
        visitor.begin()
        stream = visitor.request(quic.frame(1, quic.section(lines)), True)
        await visitor.until(lambda: visitor.said.get(stream) or visitor.closed.done())
        said = visitor.said.get(stream, b"")
        check(b"431" in said or visitor.closed.done(), f"{len(lines)} lines: {said[:80]!r}")


async def useless(quic, tunnel):
    """Frames that nobody needs, by the ten thousand, end their connection."""
    async with quic.visit(tunnel, raw=True) as visitor:
        visitor.uni(0, quic.frame(4) + quic.frame(0x21) * 30_000)
        same(await visitor.error(), EXCESSIVE_LOAD, "30,000 useless frames")


@bed("http3_flood", "python")
def http3_flood(world):
    """Junk, versions that nobody has and 5,000 first packets a second from addresses that do
    not answer. A client links and a visitor is served all the same, and not much more comes out than goes in."""
    import quic

    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        packets = initials(quic, tunnel, 600)
        with flood((tunnel.address, tunnel.port), packets) as sent:
            until("the flood is on", 10, lambda: sent["packets"] > 5000)
            began = time.monotonic()
            second = world.client()
            took = time.monotonic() - began
            check(took < limit(3), f"a client joined after {took:.1f} s")
            again = second.open(str(origin.port))
            same(world.curl(again, "/").status, 200, "through the new client")
            quic.run(polite(quic, tunnel))
            until("long enough", 30, lambda: sent["seconds"] > 3)
        rate = sent["packets"] / sent["seconds"]
        world.say(
            f"{rate:.0f} packets a second, {sent['out'] / sent['in']:.2f} bytes out for one in, "
            f"{sent['retries']} retries; a client joined in {took:.2f} s"
        )
        check(sent["out"] <= 3 * sent["in"], f"amplified: {sent}")
        check(sent["retries"] > 100, f"no retries: {sent}")
        check(sent["versions"] > 10, f"strange versions unanswered: {sent}")
        check("panicked" not in world.server.process.text(), "a panic")


async def polite(quic, tunnel):
    async with quic.visit(tunnel) as visitor:
        same((await visitor.get("/")).status, 200, "a visitor in the flood")


def initials(quic, tunnel, count):
    """First packets of as many clients, and junk of several kinds."""
    from aioquic.quic.connection import QuicConnection

    told = quic.configuration(tunnel)
    packets = []
    for at in range(count):
        client = QuicConnection(configuration=told)
        client.connect((tunnel.address, tunnel.port), now=0.0)
        first = client.datagrams_to_send(now=0.0)[0][0]
        packets.append(first)
        match at % 10:
            case 0:
                packets.append(os.urandom(1200))
            case 1:
                packets.append(first[: at % 1200])
            case 2:
                packets.append(first[:300] + os.urandom(900))
            case 3:
                # A version that nobody has, large enough for an answer, and not.
                strange = first[:1] + b"\xba\xba\xba\xba" + first[5:]
                packets += [strange, strange[:600]]
            case 4:
                # What only servers say: which versions there are, and a Retry.
                packets.append(b"\x80" + bytes(4) + first[5:])
                packets.append(b"\xf0" + first[1:])
            case 5:
                # As of a connection that is known.
                packets.append(b"\x40" + os.urandom(1199))
    return packets


@contextlib.contextmanager
def flood(to, packets):
    """Sends them over and over from many addresses, 5,000 a second or what the machine can."""
    sent = {"packets": 0, "in": 0, "out": 0, "retries": 0, "versions": 0, "seconds": 0.0}
    stop = threading.Event()
    sockets = []
    for at in range(64):
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        plain.bind((f"127.1.{at}.1", 0))
        plain.setblocking(False)
        sockets.append(plain)

    def hear():
        for plain in select.select(sockets, [], [], 0)[0]:
            with contextlib.suppress(OSError):
                while True:
                    data = plain.recv(2048)
                    sent["out"] += len(data)
                    # A long header of the kind Retry.
                    is_about_versions = data[1:5] == bytes(4)
                    sent["versions"] += is_about_versions
                    sent["retries"] += data[0] & 0xF0 == 0xF0 and not is_about_versions

    def work():
        began, at = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - began) * 5000) + 50
            while at < due:
                packet = packets[at % len(packets)]
                with contextlib.suppress(OSError):
                    sockets[at % 61].sendto(packet, to)
                    sent["in"] += len(packet)
                at += 1
            sent["packets"], sent["seconds"] = at, time.monotonic() - began
            hear()
            time.sleep(0.005)
        hear()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()
        for plain in sockets:
            plain.close()
