"""HTTP origins of our own, in threads of the bed, with events a bed can wait for."""

import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading
import time

BLOCK = hashlib.shake_256(b"wormkey").digest(256 * 1024)


def sha256_of(size):
    """Of what `/bytes/SIZE` answers."""
    digest, left = hashlib.sha256(), size
    while left > 0:
        digest.update(BLOCK[:left])
        left -= len(BLOCK)
    return digest.hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        sized = re.fullmatch(r"/bytes/(\d+)", self.path)
        if sized:
            return self.send_bytes(int(sized[1]))
        waits = re.fullmatch(r"/after/(\d+)", self.path)
        if waits:
            time.sleep(int(waits[1]) / 1000)
        if self.path == "/headers":
            pairs = [[name.lower(), value] for name, value in self.headers.items()]
            return self.answer(200, json.dumps(pairs).encode(), Content_Type="application/json")
        return self.answer(200, self.server.content.encode(), Content_Type="text/plain")

    do_HEAD = do_GET

    def send_bytes(self, size):
        first, last = 0, size - 1
        ranged = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if ranged:
            first, last = int(ranged[1]), min(int(ranged[2]), size - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "HEAD":
            return
        at = first
        with contextlib.suppress(OSError):
            while at <= last:
                offset = at % len(BLOCK)
                part = BLOCK[offset : offset + min(len(BLOCK), last - at + 1)]
                self.wfile.write(part)
                at += len(part)

    def handle_expect_100(self):
        self.server.expected_100 += 1
        if self.path == "/refuse":
            self.close_connection = True
            self.answer(413, b"no", Connection="close")
            return False
        return super().handle_expect_100()

    def do_POST(self):
        digest, size = hashlib.sha256(), 0
        for part in self.body():
            digest.update(part)
            size += len(part)
            self.server.posted(len(part))
        said = {"sha256": digest.hexdigest(), "size": size, "method": self.command}
        self.answer(200, json.dumps(said).encode(), Content_Type="application/json")

    do_PUT = do_POST

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self.exactly(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield from self.exactly(int(self.headers.get("Content-Length", 0)))

    def exactly(self, left):
        while left:
            # What is there already, so that `posted` hears of it when it comes.
            part = self.rfile.read1(min(left, 256 * 1024))
            if not part:
                raise ConnectionError("the body ended early")
            left -= len(part)
            yield part


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        # Visitors go away in the middle; the beds look at their own side.
        pass


@contextlib.contextmanager
def plain(content="hello from the origin\n", port=0):
    """Answers `/`, `/bytes/N`, `/after/MILLIS`, `/headers`, and digests what is posted, telling its
    `posted` of each part; yields the server."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.content = content
    server.expected_100 = 0
    server.posted = lambda size: None
    server.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def raw(serve):
    """Calls `serve(connection)` in a thread for each connection; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    open_ones = set()

    def one(connection):
        open_ones.add(connection)
        with connection, contextlib.suppress(OSError):
            serve(connection)
        open_ones.discard(connection)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        for connection in list(open_ones):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def read_head(connection):
    """A request or response head, byte by byte so that nothing behind it is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError(f"the connection ended in the head: {head!r}")
        head += byte
    return head.decode("latin-1")
