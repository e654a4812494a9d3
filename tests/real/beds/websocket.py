"""WebSockets: the `websockets` (Python) and `ws` (npm) libraries, each as visitor and as origin."""

import asyncio
import contextlib
import json

import cache
from harness import MIB, check, same
from registry import bed

TEXT = "ü" * (MIB // 2)
DATA = bytes(range(256)) * (MIB // 256)


@bed("websockets", "python", direct=True)
def python_both_ends(world):
    asyncio.run(_python(world))


@contextlib.asynccontextmanager
async def echo_server(page=None):
    """Echoes; on "close CODE REASON" it closes so; `/` may be a page. Yields (port, queue of how
    visitors closed)."""
    import websockets.asyncio.server
    import websockets.datastructures
    import websockets.http11
    from websockets.exceptions import ConnectionClosed

    ends = asyncio.Queue()

    async def serve(connection):
        try:
            while True:
                message = await connection.recv()
                if isinstance(message, str) and message.startswith("close "):
                    _, code, reason = message.split(" ", 2)
                    await connection.close(int(code), reason)
                elif message == "ping me":
                    await (await connection.ping(b"from the origin"))
                    await connection.send("ponged")
                else:
                    await connection.send(message)
        except ConnectionClosed as end:
            ends.put_nowait((end.rcvd and (end.rcvd.code, end.rcvd.reason), end.rcvd_then_sent))

    def answer_plain(_connection, request):
        if page is None or request.path.startswith("/socket"):
            return None
        fields = {"Content-Type": "text/html", "Content-Length": str(len(page))}
        headers = websockets.datastructures.Headers(fields | {"Connection": "close"})
        return websockets.http11.Response(200, "OK", headers, page)

    serving = websockets.asyncio.server.serve(
        serve, "127.0.0.1", 0, max_size=4 * MIB, process_request=answer_plain
    )
    async with serving as server:
        yield server.sockets[0].getsockname()[1], ends


def visitor(tunnel, **kwargs):
    import websockets.asyncio.client

    # The name is not in any DNS: say where to dial. A direct visitor has no TLS.
    more = {"ssl": tunnel.context()} if tunnel.tls else {}
    scheme = "wss" if tunnel.tls else "ws"
    return websockets.asyncio.client.connect(
        f"{scheme}://{tunnel.netloc}/socket?a=1",
        host="127.0.0.1",
        port=tunnel.port,
        max_size=4 * MIB,
        open_timeout=10,
        proxy=None,
        **more,
        **kwargs,
    )


async def exchange(tunnel):
    """Messages both ways, pings both ways; leaves by saying 4001."""
    async with visitor(tunnel) as socket:
        for message in ["hello", TEXT, DATA, b"", "x"]:
            await socket.send(message)
            check(await socket.recv() == message, f"{len(message)} long comes back as it was")
        await asyncio.wait_for(await socket.ping(b"from the visitor"), 10)
        await socket.send("ping me")
        same(await socket.recv(), "ponged", "the origin's ping came back")
        await socket.close(4001, "visitor says bye")


async def closed_by_origin(tunnel, code, reason):
    from websockets.exceptions import ConnectionClosed

    async with visitor(tunnel) as socket:
        await socket.send(f"close {code} {reason}")
        try:
            await socket.recv()
            check(False, "the origin closed, and a message came")
        except ConnectionClosed as end:
            same((end.rcvd.code, end.rcvd.reason), (code, reason), "how the origin closed")


async def _python(world):
    async with asyncio.timeout(60), echo_server() as (port, ends):
        tunnel = await asyncio.to_thread(world.open, port)
        await exchange(tunnel)
        same(await ends.get(), ((4001, "visitor says bye"), True), "how the visitor closed")
        await closed_by_origin(tunnel, 1000, "done")
        await closed_by_origin(tunnel, 4002, "origin says bye")
        async with visitor(tunnel, subprotocols=["nothing.known"]) as socket:
            same(socket.subprotocol, None, "a protocol that the origin does not speak")
        # Ten at once, their messages crossing.
        await asyncio.gather(*(exchange(tunnel) for _ in range(10)))


@bed("ws", "python", direct=True)
def node_origin_and_visitor(world):
    """npm's ws as origin for the Python visitor, and as visitor of the same origin."""
    node, folder = cache.node()
    script = cache.HERE / "pages" / "ws.cjs"
    env = {"NODE_PATH": str(folder / "node_modules")}
    origin = world.spawn([node, script, "serve"], "ws-origin", env)
    tunnel = world.open(int(origin.line(r"^port (\d+)$")[1]))

    async def from_python():
        async with asyncio.timeout(60):
            await exchange(tunnel)
            await closed_by_origin(tunnel, 1000, "done")
            await closed_by_origin(tunnel, 4002, "origin says bye")

    asyncio.run(from_python())
    origin.line(r"^closed 4001 visitor says bye$")
    ask = {"url": f"{'wss' if tunnel.tls else 'ws'}://{tunnel.netloc}/", "ca": tunnel.cafile}
    visitor = world.spawn([node, script, "visit", json.dumps(ask)], "ws-visitor", env)
    visitor.line(r"^all well$")
    same(visitor.child.wait(20), 0, "the visitor's exit code")
    origin.line(r"^closed 4003 node says bye$")
