"""curl: both HTTP versions, methods, ranges, 100-continue, and every status that is ours."""

import hashlib
import json
import time

import origins
from harness import MIB, PeakRss, check, free_port, same, until
from registry import bed


def versions(world, tunnel):
    return ["--http1.1"] if world.direct else ["--http1.1", "--http2"]


@bed("curl", direct=True)
def curl(world):
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        for version in versions(world, tunnel):
            methods(world, tunnel, version)
        continues(world, tunnel, origin)
        if not world.direct:
            proxy_headers(world, tunnel)


def methods(world, tunnel, version):
    got = world.curl(tunnel, "/", version)
    same((got.status, got.body), (200, b"hello from the origin\n"), f"GET {version}")
    same(got.version, version.removeprefix("--http").replace(".0", ""), "the HTTP version")
    head = world.curl(tunnel, "/bytes/1000", version, "--head")
    same((head.status, head.code), (200, 0), f"HEAD {version}")
    same(head.headers.get("content-length"), "1000", f"HEAD's length {version}")
    part = world.curl(tunnel, "/bytes/1000", version, "--range", "10-19")
    same((part.status, part.body), (206, origins.BLOCK[10:20]), f"a range {version}")
    same(part.headers.get("content-range"), "bytes 10-19/1000", f"a range {version}")
    sent = world.folder / "sent"
    sent.write_bytes(origins.BLOCK * 4)
    for method, words in {
        "POST": ["--data-binary", f"@{sent}"],
        "PUT": ["--upload-file", sent],
        "chunked": ["--upload-file", sent, "-H", "Transfer-Encoding: chunked"],
    }.items():
        if method == "chunked" and version != "--http1.1":
            continue
        got = world.curl(tunnel, "/sum", version, *words)
        same(got.status, 200, f"{method} {version}")
        same(json.loads(got.body)["sha256"], origins.sha256_of(MIB), f"{method} {version}")


def continues(world, tunnel, origin):
    """The 100 comes from the origin, before the body is sent; a refusal instead of it, too."""
    sent = world.folder / "sent"
    words = ["--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "60", "-v"]
    before = origin.expected_100
    got = world.curl(tunnel, "/sum", *words, "--data-binary", f"@{sent}")
    same(json.loads(got.body)["size"], MIB, "an upload with 100-continue")
    check("< HTTP/1.1 100" in got.stderr, f"no 100 came:\n{got.stderr}")
    check(got.seconds < 10, f"the 100 took {got.seconds:.1f} s")
    same(origin.expected_100, before + 1, "the origin was asked for a 100")
    got = world.curl(tunnel, "/refuse", *words, "--data-binary", f"@{sent}")
    same(got.status, 413, "a refusal instead of a 100")
    check(got.seconds < 10, f"the refusal took {got.seconds:.1f} s")


def proxy_headers(world, tunnel):
    got = world.curl(tunnel, "/headers", "-H", "X-Forwarded-For: 6.6.6.6")
    headers = json.loads(got.body)

    def values(name):
        return [value for key, value in headers if key == name]

    same(values("x-forwarded-for"), ["127.0.0.1"], "X-Forwarded-For")
    same(values("x-forwarded-proto"), ["https"], "X-Forwarded-Proto")
    same(values("x-forwarded-host"), [tunnel.netloc], "X-Forwarded-Host")
    same(len(values("forwarded")), 1, "Forwarded")
    same(values("host"), [tunnel.netloc], "Host")


def refused(world, got, status, code):
    """An answer of ours: its status, its code, its id, and a document of the right kind."""
    same((got.status, got.error), (status, code), "the refusal")
    check(got.headers.get("wormkey-request-id"), f"no request id: {got.headers}")
    same(got.headers.get("content-type"), "application/problem+json", f"{code}'s type")
    same(json.loads(got.body)["status"], status, f"{code}'s document")


@bed("statuses")
def statuses(world):
    with origins.plain() as origin:
        tunnel = world.open(origin.port, "--name", "first")
        same(tunnel.slug, "first", "the name asked for")
        same(world.curl(tunnel).status, 200, "the tunnel")
        unknown = world.curl(tunnel, host="nobody-here.t.wormkey.test")
        refused(world, unknown, 404, "no_such_tunnel")
        page = world.curl(tunnel, "/", "-H", "Accept: text/html", host="no.t.wormkey.test")
        same(page.status, 404, "the page's status")
        check(page.headers["content-type"].startswith("text/html"), "a browser gets a page")
        check(b"<html" in page.body.lower(), "a browser gets a page")
        # The connection is for one name, the request for another.
        other = ["-H", f"Host: other.t.wormkey.test:{tunnel.port}", "--http1.1"]
        refused(world, world.curl(tunnel, "/", *other), 421, "misdirected")
        again = world.first_client.open(str(origin.port), "--name", "first")
        same(again.json["id"], tunnel.json["id"], "open again is the same tunnel")
        code, _, _ = world.first_client.ctl_code("open", free_port(), "--name", "first")
        same(code, 6, "the same name with another target")
        world.first_client.ctl("close", "first")
        refused(world, world.curl(tunnel), 410, "tunnel_closed")
    origin_down(world)
    expiry(world)


def origin_down(world):
    """`open` while nothing listens warns and succeeds; visitors get 502 until something does."""
    port = free_port()
    tunnel = world.open(port)
    check(tunnel.json.get("warnings"), f"no warning: {tunnel.json}")
    refused(world, world.curl(tunnel), 502, "origin_unreachable")
    with origins.plain("up now\n", port):
        same(world.curl(tunnel).body, b"up now\n", "the origin came up")


def expiry(world):
    with origins.plain() as origin:
        tunnel = world.open(origin.port, "--expires", "3s")
        ends = world.first_client.show(tunnel.slug)["expires_at"]
        same(ends, tunnel.json["expires_at"], "the expiry, twice")
        due = time.mktime(time.strptime(ends[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        due += float(ends[19:].rstrip("Z"))
        left = due - time.time()
        check(0 < left <= 3, f"ends in {left:.1f} s instead of 3")
        same(world.curl(tunnel).status, 200, "before its end")

        def over():
            asked = time.time()
            got = world.curl(tunnel)
            if got.status == 200:
                check(asked < due, f"answered {asked - due:.2f} s after its end")
                return None
            check(time.time() > due, "ended before its time")
            return got

        got = until("the tunnel is over", 6, over)
        check(time.time() - due < 1, f"known {time.time() - due:.2f} s after its end")
        refused(world, got, 410, "tunnel_expired")


@bed("files")
def files(world):
    """A `file:` target: index pages, ranges, and no way out."""
    folder = world.first_client.files
    (folder / "index.html").write_text("<h1>home</h1>")
    (folder / "data.bin").write_bytes(origins.BLOCK)
    (folder.parent / "outside").write_text("secret")
    (folder / "way-out").symlink_to("../outside")
    tunnel = world.first_client.open(f"file:{folder}")
    got = world.curl(tunnel)
    same((got.status, got.body), (200, b"<h1>home</h1>"), "the index page")
    check(got.headers["content-type"].startswith("text/html"), f"its type: {got.headers}")
    part = world.curl(tunnel, "/data.bin", "--range", "100-199")
    same((part.status, part.body), (206, origins.BLOCK[100:200]), "a range of a file")
    same(world.curl(tunnel, "/none").status, 404, "a file that is not there")
    for path in ("/../outside", "/%2e%2e/outside", "/..%2foutside", "/way-out"):
        got = world.curl(tunnel, path, "--path-as-is")
        check(b"secret" not in got.body, f"{path} leads out")
        check(400 <= got.status < 500, f"{path}: {got.status}")


def _transfer(world, tunnel, size, version):
    digest = origins.sha256_of(size)
    got = world.curl(tunnel, f"/bytes/{size}", version, seconds=600)
    same((got.status, len(got.body)), (200, size), f"download {version}")
    down = got.seconds
    same(hashlib.sha256(got.body).hexdigest(), digest, f"download {version}")
    del got
    sent = world.folder / "curl.body"
    sent = sent.rename(world.folder / "sent")
    got = world.curl(tunnel, "/sum", version, "--upload-file", sent, seconds=600)
    same(json.loads(got.body)["sha256"], digest, f"upload {version}")
    world.say(
        f"{version[2:]}: {size / MIB:.0f} MiB down in {down:.1f} s, up in {got.seconds:.1f} s"
    )


@bed("bulk", direct=True)
def bulk(world):
    """64 MiB each way, a gibibyte in the long run; the daemons' memory stays where it was."""
    size = (1024 if world.long else 64) * MIB
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        same(world.curl(tunnel).status, 200, "before")
        if world.direct:
            return _transfer(world, tunnel, size, "--http1.1")
        with PeakRss(**world.daemons()) as memory:
            for version in versions(world, tunnel):
                _transfer(world, tunnel, size, version)
        world.say(memory.said())
        for name, grown in memory.growth().items():
            check(grown <= 32 * MIB, f"the {name} grew by {grown / MIB:.1f} MiB")
