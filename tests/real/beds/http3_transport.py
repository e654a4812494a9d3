"""QUIC below HTTP/3, by aioquic: what breaks a handshake or a packet costs its own connection, and
nothing is done for data that came too early."""

import asyncio
import types

import origins
from harness import check, same
from registry import bed

FRAME_ENCODING, PARAMETERS, VIOLATION = 0x7, 0x8, 0xA
FLOW_CONTROL, STREAM_LIMIT, STREAM_STATE, CRYPTO_BUFFER = 0x3, 0x4, 0x5, 0xD


@bed("http3_transport", "python")
def http3_transport(world):
    """Each handshake and each packet that must not be, while another visitor is served."""
    import quic

    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        quic.run(parameters(quic, tunnel))
        quic.run(frames(quic, tunnel))
        quic.run(fragments(quic, tunnel))
        quic.run(too_early(quic, tunnel, origin))
        check("panicked" not in world.server.process.text(), "a panic")


async def ended(visitor, other, name, wanted):
    """The server ends its handshake or its connection with one of these codes, and serves the other."""
    seen = await asyncio.wait_for(asyncio.shield(visitor.closed), 20)
    check(seen in wanted, f"{name}: expected {[hex(code) for code in wanted]}, saw {hex(seen)}")
    same((await other.get("/")).status, 200, f"another visitor after {name}")


async def parameters(quic, tunnel):
    """Transport parameters cut short, twice, out of range, or the server's alone."""
    number = quic.varint

    def one(kind, value):
        return number(kind) + number(len(value)) + value

    def adding(more):
        return lambda whole: whole + more

    cases = {
        "a length that nothing follows": adding(number(0x15) + number(90)),
        "an idle timeout of two numbers": adding(one(0x3F01, b"") + one(0x01, b"\x01\x01")),
        "one twice": adding(one(0x0F, b"12345678")),
        "packets of 100 bytes": adding(one(0x03, number(100))),
        "a delay's exponent of 21": adding(one(0x0A, number(21))),
        "a stateless reset token": adding(one(0x02, bytes(16))),
        "a first connection id": adding(one(0x00, b"12345678")),
        "a preferred address": adding(one(0x0D, bytes(60))),
        "more streams than there are": adding(one(0x08, number(1 << 61))),
        "no source connection id": lambda whole: one(0x04, number(1 << 16)),
    }
    for cut in (1, 2, 5, 11):
        cases[f"all but {cut} bytes"] = lambda whole, cut=cut: whole[:-cut]
    wanted = {PARAMETERS}
    async with quic.visit(tunnel) as other:

        async def case(name, change):
            def prepare(connection):
                honest = connection._serialize_transport_parameters
                connection._serialize_transport_parameters = lambda: change(honest())

            async with quic.visit(tunnel, prepare=prepare) as visitor:
                await ended(visitor, other, name, wanted)

        await quic.together(case(*of) for of in cases.items())


async def frames(quic, tunnel):
    """Frames that nobody knows, that break off, and that are not a visitor's to send."""
    number = quic.varint
    cases = {
        "a frame that nobody knows": (0x21, b"", {FRAME_ENCODING}),
        "one of a large number": (0x3FFF, b"junk", {FRAME_ENCODING}),
        "a datagram that was not agreed on": (0x31, number(4) + b"junk", {VIOLATION, FRAME_ENCODING}),
        "half an ACK": (0x02, b"\x05", {FRAME_ENCODING}),
        "an ACK of what was not sent": (0x02, number(1 << 30) + bytes(3), {VIOLATION}),
        "a stream that breaks off": (0x0E, number(0) + b"\x80", {FRAME_ENCODING}),
        "a stream of ours": (0x0A, number(1) + number(1) + b"x", {STREAM_STATE}),
        "a stream over the limit": (0x0A, number(4 << 20) + number(1) + b"x", {STREAM_LIMIT}),
        "bytes over the window": (
            0x0E,
            number(0) + number(1 << 40) + number(1) + b"x",
            {FLOW_CONTROL},
        ),
        "a handshake far ahead": (0x06, number(1 << 30) + number(1) + b"x", {CRYPTO_BUFFER}),
        "a token": (0x07, number(4) + b"junk", {VIOLATION, FRAME_ENCODING}),
        "the end of the handshake": (0x1E, b"", {VIOLATION, FRAME_ENCODING}),
        "a connection id's end": (0x19, number(99), {VIOLATION}),
        "a connection id of no length": (0x18, number(9) + number(0) + b"\0", {FRAME_ENCODING}),
        "streams by the 2^62": (0x12, number((1 << 62) - 1), {FRAME_ENCODING}),
    }
    async with quic.visit(tunnel) as other:

        async def one(name, kind, payload, wanted):
            async with quic.visit(tunnel, raw=True) as visitor:
                send_frame(visitor, kind, payload)
                await ended(visitor, other, name, wanted)

        await quic.together(one(name, *case) for name, case in cases.items())


def send_frame(visitor, kind, payload):
    """A frame of the bed's own, in the place of a PING."""

    def write(self, builder, uids=(), comment=""):
        builder.start_frame(kind, capacity=8 + len(payload)).push_bytes(payload)

    connection = visitor._quic
    connection._write_ping_frame = types.MethodType(write, connection)
    connection.send_ping(1)
    visitor.transmit()


async def fragments(quic, tunnel):
    """A hello in many packets, the last ones first, is a hello."""
    sent = []

    def prepare(connection):
        # Much that it could speak makes a long hello.
        connection._configuration.alpn_protocols = ["h3", *(f"{at:0200}" for at in range(15))]
        whole = connection._initialize

        def initialize(*words):
            whole(*words)
            for stream in connection._crypto_streams.values():
                few(stream.sender)

        connection._initialize = initialize
        backwards(connection)

    def few(sender):
        honest = sender.get_frame
        sender.get_frame = lambda size, *words: honest(min(size, 400), *words)

    def backwards(connection):
        honest = connection.datagrams_to_send

        def send(now):
            datagrams = honest(now=now)[::-1]
            sent.append(len(datagrams))
            return datagrams

        connection.datagrams_to_send = send

    async with quic.visit(tunnel, prepare=prepare) as visitor:
        await asyncio.wait_for(visitor.wait_connected(), 20)
        check(sent[0] > 2, f"the hello went in {sent[0]} packets")
        same((await visitor.get("/")).status, 200, "after a hello in pieces")


async def too_early(quic, tunnel, origin):
    """What comes before the handshake is done is not looked at: the origin has it once, afterwards."""
    tickets = []
    async with quic.visit(tunnel, tickets=tickets.append) as visitor:
        same((await visitor.get("/")).status, 200, "the first visit")
        await visitor.until(lambda: tickets)
    check(all(not one.max_early_data_size for one in tickets), "a ticket allows early data")
    posts = []
    origin.posted = posts.append
    ticket = tickets[0]
    # As if it did.
    ticket.max_early_data_size = 0xFFFFFFFF
    async with quic.visit(tunnel, ticket=ticket) as visitor:
        reply = visitor.ask("/sum", ("content-length", "4"), method="POST", body=b"once")
        await reply.whole()
        same(reply.status, 200, "a visit that came too early")
        check(visitor._quic.tls.session_resumed, "the session was not resumed")
        check(not visitor._quic.tls.early_data_accepted, "early data was taken")
    same(sum(posts), 4, "bytes at the origin")
    origin.posted = lambda size: None


@bed("http3_handshakes", "python")
def http3_handshakes(world):
    """One address may shake hands so often and no more, over QUIC as over TCP."""
    import quic

    world.settings["server"] = {"limits": {"handshakes": "12/m burst 12"}}
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        served = quic.run(until_refused(quic, tunnel))
        check(0 < served < 12, f"{served} visitors were served")


async def until_refused(quic, tunnel):
    """How many connections of one address are served before one is not: who is refused is not answered, and
    the next place comes free after five seconds."""
    for served in range(20):
        try:
            async with asyncio.timeout(4), quic.visit(tunnel) as visitor:
                got = await visitor.ask("/").whole(10)
                if visitor.closed.done():
                    return served
                same(got.status, 200, f"visit {served}")
        except (ConnectionError, TimeoutError):
            return served
    return 20
