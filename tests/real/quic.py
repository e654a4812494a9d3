"""HTTP/3 visitors by aioquic: whole requests, and streams whose every byte a bed chooses."""

import asyncio
import contextlib
import hashlib
import socket

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

SECONDS = 60


def run(what):
    """Runs a coroutine to its end, within a minute."""
    return asyncio.run(asyncio.wait_for(what, SECONDS * 10))


async def together(what, at_once=12):
    """Awaits them all, a few at once: aioquic takes its time to say that a connection is over."""
    places = asyncio.Semaphore(at_once)

    async def one(each):
        async with places:
            return await each

    return await asyncio.gather(*map(one, what))


class Reply:
    """An answer, as far as it has come."""

    def __init__(self):
        self.headers, self.trailers, self.interim = {}, {}, []
        self.size, self.digest, self.first = 0, hashlib.sha256(), b""
        self.reset = None
        self.over = asyncio.Event()
        self.moved = asyncio.Event()

    @property
    def status(self):
        return int(self.headers.get(":status", 0))

    @property
    def error(self):
        return self.headers.get("wormkey-error")

    @property
    def sha256(self):
        return self.digest.hexdigest()

    def take(self, event):
        if isinstance(event, HeadersReceived):
            fields = {name.decode(): value.decode() for name, value in event.headers}
            if fields.get(":status", "").startswith("1"):
                self.interim.append(int(fields[":status"]))
            elif self.headers:
                self.trailers = fields
            else:
                self.headers = fields
        elif isinstance(event, DataReceived):
            self.size += len(event.data)
            self.digest.update(event.data)
            self.first += event.data[: max(0, 65536 - len(self.first))]
        self.moved.set()
        if event.stream_ended:
            self.over.set()

    async def whole(self, seconds=SECONDS):
        await asyncio.wait_for(self.over.wait(), seconds)
        return self


class Http(H3Connection):
    """aioquic's, which takes the length that an answer to HEAD states for one that it must have."""

    def __init__(self, *args):
        super().__init__(*args)
        self.bodiless = set()

    def _check_content_length(self, stream):
        if stream.stream_id not in self.bodiless:
            super()._check_content_length(stream)


class Visitor(QuicConnectionProtocol):
    """One connection. `raw`: nothing is sent but what the bed sends."""

    raw = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = None
        self.replies = {}
        self.closed = asyncio.get_running_loop().create_future()
        # What the server did to streams: reset, asked to stop, or said.
        self.resets, self.stops, self.said = {}, {}, {}
        self.news = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            if not self.closed.done():
                self.closed.set_result(event.error_code)
            for reply in self.replies.values():
                reply.over.set()
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
            if reply := self.replies.get(event.stream_id):
                reply.reset = event.error_code
                reply.over.set()
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        elif isinstance(event, StreamDataReceived) and self.raw:
            self.said[event.stream_id] = self.said.get(event.stream_id, b"") + event.data[:65536]
        if self.http and not self.raw:
            for one in self.http.handle_event(event):
                if (
                    isinstance(one, (HeadersReceived, DataReceived))
                    and one.stream_id in self.replies
                ):
                    self.replies[one.stream_id].take(one)
        self.news.set()

    def ask(self, path, *fields, method="GET", host=None, body=None, ends=True):
        """Begins a request; `body` goes at once."""
        if self.http is None:
            self.http = Http(self._quic)
        stream = self._quic.get_next_available_stream_id()
        reply = self.replies[stream] = Reply()
        reply.stream = stream
        if method == "HEAD":
            self.http.bodiless.add(stream)
        head = [
            (":method", method),
            (":scheme", "https"),
            (":authority", host or self.host),
            (":path", path),
        ]
        head = [(name.encode(), value.encode()) for name, value in [*head, *fields]]
        self.http.send_headers(stream, head, end_stream=body is None and ends)
        if body is not None:
            self.http.send_data(stream, body, end_stream=ends)
        self.transmit()
        return reply

    async def get(self, path, *fields, **words):
        return await self.ask(path, *fields, **words).whole()

    def send(self, stream, data, end=False):
        """Raw bytes on a stream."""
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def uni(self, kind, data=b""):
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self.send(stream, varint(kind) + data)
        return stream

    def request(self, data, end=False):
        stream = self._quic.get_next_available_stream_id()
        self.send(stream, data, end)
        return stream

    def begin(self, settings=b""):
        """What a client says first, raw."""
        return self.uni(0, frame(4, settings))

    async def until(self, what, seconds=20):
        """Waits until `what()` is no longer None or false; that."""

        async def wait():
            while not (found := what()):
                self.news.clear()
                await self.news.wait()
            return found

        return await asyncio.wait_for(wait(), seconds)

    async def error(self, seconds=20):
        """The code that the server closes the connection with, or resets a stream with."""
        return await self.until(
            lambda: (
                self.closed.result()
                if self.closed.done()
                else next(iter(self.resets.values()), None)
            ),
            seconds,
        )

    async def move(self):
        """Goes on from another port."""
        old = self._transport
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=udp())
        old.close()


def udp():
    plain = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    plain.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    plain.bind(("::ffff:127.0.0.1", 0))
    return plain


def configuration(tunnel):
    told = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=tunnel.host)
    told.load_verify_locations(tunnel.cafile)
    # What a socket has room for: of more, the kernel would lose some while Python is busy.
    told.max_data, told.max_stream_data = 1 << 18, 1 << 17
    return told


@contextlib.asynccontextmanager
async def visit(tunnel, raw=False, prepare=None, ticket=None, tickets=None):
    """A connection to the edge for this tunnel's name, verified. `prepare` sees aioquic's connection
    before it says anything; it is then not waited for. `ticket`: resumes; `tickets`: hears of new ones."""
    told = configuration(tunnel)
    told.session_ticket = ticket
    quic = QuicConnection(configuration=told, session_ticket_handler=tickets)
    if prepare:
        prepare(quic)
    loop = asyncio.get_running_loop()
    _, visitor = await loop.create_datagram_endpoint(lambda: Visitor(quic), sock=udp())
    visitor.raw, visitor.host = raw, tunnel.netloc
    try:
        visitor.connect((f"::ffff:{tunnel.address}", tunnel.port, 0, 0))
        if not prepare and not ticket:
            await asyncio.wait_for(visitor.wait_connected(), 10)
        yield visitor
    finally:
        if not visitor.closed.done():
            visitor.close()
            await visitor.wait_closed()
        visitor._transport.close()


def varint(number):
    for size, mark in ((1, 0), (2, 0x40), (4, 0x80), (8, 0xC0)):
        if number < 1 << (8 * size - 2):
            data = bytearray(number.to_bytes(size, "big"))
            data[0] |= mark
            return bytes(data)
    raise ValueError(number)


def frame(kind, payload=b""):
    return varint(kind) + varint(len(payload)) + payload


def number(flags, prefix, value):
    """A number of QPACK behind its flags."""
    full = (1 << prefix) - 1
    if value < full:
        return bytes([flags | value])
    out, value = [flags | full], value - full
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes([*out, value])


def section(lines):
    """A field section, every line spelled out."""
    out = [b"\0\0"]
    for name, value in lines:
        name, value = name.encode("latin1"), value.encode("latin1")
        out += [number(0x20, 3, len(name)), name, number(0, 7, len(value)), value]
    return b"".join(out)
