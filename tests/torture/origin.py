#!/usr/bin/env python3
"""The origin of the trials, a process of its own so that it can be killed.

`/` and `/bytes/N` answer at once, `/ticks` says a number twenty times a second for ever, `/echo` is a
WebSocket that sends back what it gets. usage: origin.py PORT
"""

import asyncio
import base64
import hashlib
import sys

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BLOCK = hashlib.shake_256(b"wormkey").digest(64 * 1024)
TICK = 0.05


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split()[1]
            if path == "/ticks":
                return await ticks(writer)
            if path == "/echo":
                return await echo(head, reader, writer)
            size = int(path.rpartition("/")[2]) if path.startswith("/bytes/") else 1024
            body = (BLOCK * (size // len(BLOCK) + 1))[:size]
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode() + body)
            await writer.drain()
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def ticks(writer):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    number = 0
    while True:
        writer.write(f"data: {number}\n\n".encode())
        await writer.drain()
        number += 1
        await asyncio.sleep(TICK)


async def echo(head, reader, writer):
    keys = [line.partition(":")[2] for line in head if line.lower().startswith("sec-websocket-key")]
    proof = base64.b64encode(hashlib.sha1((keys[0].strip() + MAGIC).encode()).digest()).decode()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        + f"sec-websocket-accept: {proof}\r\n\r\n".encode()
    )
    while True:
        # One short text message at a time, masked by the key that comes before it.
        first, length = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        text = await reader.readexactly(length & 0x7F)
        plain = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))
        writer.write(bytes([first, len(plain)]) + plain)
        await writer.drain()


async def main(port):
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
