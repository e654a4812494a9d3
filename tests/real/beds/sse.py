"""Server-sent events: each arrives when it is sent, and a visitor who leaves is noticed."""

import threading
import time

import origins
from harness import check, same
from registry import bed


@bed("sse", direct=True)
def sse(world):
    wanted, gone = threading.Semaphore(0), threading.Event()

    def serve(connection):
        if not origins.read_head(connection).startswith("GET /events"):
            # The client's look at open.
            connection.sendall(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            return
        connection.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        threading.Thread(target=notice_end, args=(connection,), daemon=True).start()
        number = 0
        while not gone.is_set():
            if not wanted.acquire(timeout=0.1):
                continue
            number += 1
            event = f"id: {number}\ndata: event {number}\n\n".encode()
            connection.sendall(b"%x\r\n%s\r\n" % (len(event), event))

    def notice_end(connection):
        try:
            while connection.recv(4096):
                pass
        except OSError:
            pass
        gone.set()

    with origins.raw(serve) as port:
        tunnel = world.open(port)
        visitor = tunnel.dial(timeout=10)
        asked = f"GET /events HTTP/1.1\r\nhost: {tunnel.netloc}\r\naccept: text/event-stream\r\n\r\n"
        visitor.sendall(asked.encode())
        head = origins.read_head(visitor)
        check(head.startswith("HTTP/1.1 200"), f"the head came before any event: {head}")
        slowest = 0
        # The origin sends the next event only when the last one has arrived: a buffer anywhere
        # in between would stop the play.
        for number in range(1, 21):
            began = time.monotonic()
            wanted.release()
            text = b""
            while f"data: event {number}\n\n".encode() not in text:
                part = visitor.recv(4096)
                check(part, f"ended before event {number}")
                text += part
            slowest = max(slowest, time.monotonic() - began)
        check(slowest < 1, f"an event took {slowest:.2f} s")
        check(not gone.is_set(), "the origin's connection ended early")
        began = time.monotonic()
        visitor.close()
        same(gone.wait(5), True, "the origin learns that the visitor left")
        took = time.monotonic() - began
        check(took < 1, f"the origin learnt it after {took:.2f} s")
        world.say(f"slowest event {slowest * 1000:.1f} ms, the end noticed in {took * 1000:.1f} ms")
