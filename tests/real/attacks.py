"""A hostile user's load, as a program of its own so that it does not slow down who measures: every kind
at a fixed pace, while a file says so. Prints what came of it, as JSON, when it is told to end.

Serves an origin of its own, whose port it prints, and waits until there is a plan: a JSON object, see `main`.

usage: attacks.py FLAG PLAN
"""

import asyncio
import collections
import contextlib
import json
import pathlib
import signal
import socket
import ssl
import sys
import time

# The attack comes from an address of its own, as strangers do.
FROM = "127.0.0.66"
TICKS = 20
PATIENCE = 5


class Attack:
    """One kind, begun so many times a second; what became of each is counted by a word."""

    def __init__(self, flag, name, per_second, once, at_once=200):
        self.name, self.per_second, self.once = name, per_second, once
        self.flag = flag
        self.places = asyncio.Semaphore(at_once)
        self.tally = collections.Counter()
        self.going = set()
        self.active = 0.0

    async def run(self):
        due, last = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(1 / TICKS)
            now = time.monotonic()
            passed, last = now - last, now
            if not self.flag.exists():
                continue
            self.active += passed
            due += self.per_second * passed
            while due >= 1:
                due -= 1
                if self.places.locked():
                    # So many are going on that the next would only wait here.
                    self.tally["waiting"] += 1
                    continue
                await self.places.acquire()
                task = asyncio.ensure_future(self._one())
                self.going.add(task)
                task.add_done_callback(self.going.discard)

    async def _one(self):
        try:
            async with asyncio.timeout(PATIENCE):
                said = await self.once()
        except (OSError, EOFError, TimeoutError, ValueError, ssl.SSLError) as error:
            said = type(error).__name__
        finally:
            self.places.release()
        self.tally[said] += 1

    def told(self):
        return {"seconds": round(self.active, 2), "said": dict(self.tally)}


def careless():
    """TLS without the cost of verifying, which is the attacker's own."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Visits:
    """Requests on kept-alive connections."""

    def __init__(self, port, host, path="/"):
        self.where, self.tls, self.idle = ("127.0.0.1", port), careless(), []
        self.host = host
        self.ask = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode()

    async def __call__(self):
        while self.idle and self.idle[-1][0].at_eof():
            self.idle.pop()[1].close()
        if self.idle:
            reader, writer = self.idle.pop()
        else:
            secured = {"ssl": self.tls, "server_hostname": self.host, "local_addr": (FROM, 0)}
            reader, writer = await asyncio.open_connection(*self.where, **secured)
        try:
            writer.write(self.ask)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
        except BaseException:
            writer.close()
            raise
        if "connection: close" in head:
            writer.close()
        else:
            self.idle.append((reader, writer))
        return head.split()[1]


async def strange_handshake(port, domain, number):
    """A new connection for a name that no tunnel has."""
    name = f"nobody-{next(number)}.{domain}"
    return await Visits(port, name)()


async def held(port):
    """A connection of a tcp tunnel that says nothing until it is cut, or for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(FROM, 0))
    try:
        async with asyncio.timeout(2):
            return "cut" if not await reader.read(1) else "answered"
    except TimeoutError:
        return "held"
    finally:
        writer.close()


async def call(path, method, target, body=None):
    """A call of the hostile user's own client, which asks the server."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        body = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
        return answer.split(b" ", 2)[1].decode()
    finally:
        writer.close()


async def origin(reader, writer):
    """Says yes to everything."""
    with contextlib.suppress(OSError, EOFError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    writer.close()


def datagrams(port, sockets, payload):
    """One datagram from each of many addresses."""
    made = []
    for _ in range(sockets):
        one = socket.socket(type=socket.SOCK_DGRAM)
        one.bind((FROM, 0))
        one.setblocking(False)
        made.append(one)
    turn = iter(range(10**12))

    async def send():
        with contextlib.suppress(BlockingIOError):
            made[next(turn) % sockets].sendto(payload, ("127.0.0.1", port))
        return "sent"

    return send


async def main(flag, file):
    serving = await asyncio.start_server(origin, "127.0.0.1", 0)
    print(f"origin {serving.sockets[0].getsockname()[1]}", flush=True)
    while not pathlib.Path(file).exists():
        await asyncio.sleep(0.02)
    await attack(pathlib.Path(flag), json.loads(pathlib.Path(file).read_text()))


async def attack(flag, plan):
    port, host, domain, ctl = plan["port"], plan["host"], plan["domain"], plan["socket"]
    rates, number = plan["rates"], iter(range(10**9))
    # What a link begins with, and then nothing that could be one.
    junk = b"\xc3\x00\x00\x00\x01\x08" + bytes(8) + b"\x08" + bytes(1180)

    async def another():
        ask = {"target": plan["target"], "yes_expose": True}
        return await call(ctl, "POST", "/v1/tunnels", ask)

    async def anew():
        policy = {"policy": {"deny": ["192.0.2.0/24"]}, "parts": ["deny"]}
        return await call(ctl, "PATCH", f"/v1/tunnels/{plan['slug']}", policy)

    kinds = {
        "visits": Visits(port, host),
        "handshakes": lambda: strange_handshake(port, domain, number),
        "connections": lambda: held(plan["tcp"]),
        "datagrams": datagrams(plan["udp"], plan["flows"], bytes(1200)),
        "initials": datagrams(port, 1, junk),
        "tunnels": another,
        "calls": anew,
    }
    attacks = [Attack(flag, name, rates[name], once) for name, once in kinds.items()]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    tasks = [asyncio.ensure_future(attack.run()) for attack in attacks]
    print("ready", flush=True)
    await over.wait()
    for task in tasks:
        task.cancel()
    print("told " + json.dumps({attack.name: attack.told() for attack in attacks}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
