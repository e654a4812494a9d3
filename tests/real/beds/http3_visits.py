"""What a visit may be, over HTTP/3 as over the others: policy, limits, trailers, cancelling, and its line
in the log."""

import asyncio
import base64
import contextlib
import json
import threading

import origins
from harness import check, same, until
from registry import bed

CANCELLED = 0x10C
LATE = 20


@bed("http3_visits", "python")
def http3_visits(world):
    """Refusals by policy, limits, trailers both ways, cancelling both ways, the log."""
    import quic

    log = {"format": "json", "access": "full"}
    world.settings["server"] = {"log": log}
    with origins.plain() as origin, wire() as (port, seen):
        quic.run(policy(quic, world, origin.port))
        quic.run(limits(quic, world.open(origin.port)))
        tunnel = world.open(port)
        quic.run(trailers(quic, tunnel, seen))
        quic.run(expecting(quic, world.open(origin.port)))
        quic.run(cancelled(quic, tunnel, seen))
        logged(world, tunnel)


async def policy(quic, world, port):
    file = world.folder / "password"
    file.write_text("s3cret\n")
    file.chmod(0o600)
    for flags, asks in {
        ("--auth", f"ada:@{file}"): [
            (401, (), "GET"),
            (401, basic("ada:wrong"), "GET"),
            (200, basic("ada:s3cret"), "GET"),
        ],
        ("--visitor-rate", "3/m", "--visitor-burst", "3"): [(200, (), "GET")] * 3
        + [(429, (), "GET")],
        ("--allow-method", "GET"): [(405, (), "POST"), (200, (), "GET")],
        ("--deny", "127.0.0.0/8"): [(403, (), "GET")],
        ("--cors", "https://app.example"): [
            (204, preflight("https://app.example"), "OPTIONS"),
            (204, preflight("https://other.example"), "OPTIONS"),
            (200, [("origin", "https://app.example")], "GET"),
        ],
    }.items():
        tunnel = world.open(port, *flags)
        async with quic.visit(tunnel) as visitor:
            for status, fields, method in asks:
                got = await visitor.get("/", *fields, method=method)
                same(got.status, status, f"{method} with {flags} and {fields}")
                if status == 401:
                    check("www-authenticate" in got.headers, f"no challenge: {got.headers}")
                if status == 429:
                    check(int(got.headers["retry-after"]) > 0, f"no time: {got.headers}")
                if flags[0] == "--cors":
                    allowed = got.headers.get("access-control-allow-origin")
                    asked = dict(fields)["origin"]
                    wanted = asked if asked == flags[1] else None
                    same(allowed, wanted, f"what {method} allows to {asked}")


def basic(words):
    return [("authorization", f"Basic {base64.b64encode(words.encode()).decode()}")]


def preflight(origin):
    return [("origin", origin), ("access-control-request-method", "GET")]


async def limits(quic, tunnel):
    """The sizes that wormkeyd(8) has: each number passes, one more does not."""
    async with quic.visit(tunnel) as visitor:
        for count, status in ((8192, 200), (8193, 414)):
            got = await visitor.get("/" + "a" * (count - 1))
            same(got.status, status, f"an address of {count} bytes")
        for count, error in ((100, None), (101, "too_large")):
            # `:authority` is one of them. The origin takes no more than 100, and some are added.
            got = await visitor.get("/", *[(f"f{at}", "x") for at in range(1, count)])
            same(got.error, error, f"{count} fields")


async def trailers(quic, tunnel, seen):
    async with quic.visit(tunnel) as visitor:
        fields = [("te", "trailers"), ("trailer", "sum")]
        reply = visitor.ask("/trailers", *fields, method="POST", body=b"four", ends=False)
        visitor.http.send_headers(reply.stream, [(b"sum", b"4")], end_stream=True)
        visitor.transmit()
        await reply.whole()
        same((reply.status, reply.first), (200, b"hello"), "an answer with trailers")
        same(reply.trailers, {"checked": "yes"}, "its trailers")
        same(seen["trailers"], {"sum": "4"}, "the trailers of the request")


async def expecting(quic, tunnel):
    async with quic.visit(tunnel) as visitor:
        asked = [("expect", "100-continue"), ("content-length", "4")]
        reply = visitor.ask("/sum", *asked, method="POST", ends=False)
        while not reply.interim:
            reply.moved.clear()
            await asyncio.wait_for(reply.moved.wait(), LATE)
        same((reply.interim, reply.status), ([100], 0), "what comes before the body")
        visitor.http.send_data(reply.stream, b"four", end_stream=True)
        visitor.transmit()
        await reply.whole()
        same((reply.status, json.loads(reply.first)["size"]), (200, 4), "what comes after it")


async def cancelled(quic, tunnel, seen):
    """The origin hears of it, and the connection goes on."""
    async with quic.visit(tunnel) as visitor:
        down = visitor.ask("/endless")
        while not down.size:
            down.moved.clear()
            await asyncio.wait_for(down.moved.wait(), LATE)
        visitor._quic.stop_stream(down.stream, CANCELLED)
        visitor.transmit()
        heard = asyncio.to_thread(seen["endless"].wait, LATE)
        check(await heard, "the origin does not hear that its answer is not wanted")
        up = visitor.ask("/upload", method="POST", body=b"begun", ends=False)
        begun = asyncio.to_thread(seen["begun"].wait, LATE)
        check(await begun, "the body did not arrive while it goes on")
        visitor._quic.reset_stream(up.stream, CANCELLED)
        visitor.transmit()
        heard = asyncio.to_thread(seen["broken"].wait, LATE)
        check(await heard, "the origin takes half a body for a whole one")
        same((await visitor.get("/trailers", method="POST", body=b"")).status, 200, "afterwards")


@contextlib.contextmanager
def wire():
    """An origin that has trailers, an answer without an end, and knows how a body ended."""
    seen = {name: threading.Event() for name in ("endless", "begun", "broken")}

    def serve(connection):
        head = origins.read_head(connection)
        path = head.split()[1]
        with connection.makefile("rb") as body:
            chunked = "transfer-encoding: chunked" in head.lower()
            if path == "/trailers":
                seen["trailers"] = read_chunks(body) if chunked else {}
                answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: checked\r\n\r\n"
                connection.sendall(f"{answer}5\r\nhello\r\n0\r\nchecked: yes\r\n\r\n".encode())
            elif path == "/endless":
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                with contextlib.suppress(OSError):
                    while True:
                        connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                seen["endless"].set()
            elif path == "/upload":
                body.readline()
                body.read(5)
                seen["begun"].set()
                body.readline()
                if body.readline() != b"0\r\n":
                    seen["broken"].set()
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with origins.raw(serve) as port:
        yield port, seen


def read_chunks(body):
    """Passes over a chunked body; its trailers."""
    while size := int(body.readline().split(b";")[0], 16):
        body.read(size)
        body.readline()
    fields = {}
    while line := body.readline().decode().strip():
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return fields


def logged(world, tunnel):
    """Visits have their lines, which say by which version they came and whether they are whole."""

    def lines():
        text = world.server.process.text().splitlines()
        found = [json.loads(line)["fields"] for line in text if '"message":"visit"' in line]
        mine = [one for one in found if one.get("tunnel") == tunnel.slug]
        return {(one["path"], one["version"], one["status"], one["complete"]) for one in mine}

    # Half a body is answered, as far as the visitor still reads.
    wanted = {
        ("/trailers", "3", 200, True),
        ("/endless", "3", 200, False),
        ("/upload", "3", 400, True),
    }
    until(f"lines {wanted} in the log", 10, lambda: wanted <= lines())
