"""The pages for Prometheus: its own tool has nothing to say against them."""

import contextlib
import http.client
import socket
import subprocess

import cache
import origins
from harness import check, same
from registry import bed


def page(daemon):
    """`GET /metrics` at its admin socket."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.connect(str(daemon.socket))
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        same(answer.status, 200, "the status of /metrics")
        return answer.read().decode()


@bed("metrics")
def metrics(world):
    promtool = cache.packed("promtool", "prometheus")
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        for path in ("/", "/none", "/"):
            world.curl(tunnel, path)
        world.curl(tunnel, host="nobody.t.wormkey.test")
        for daemon in (world.server, world.first_client):
            text = page(daemon)
            check("wormkey_build_info" in text, text)
            done = subprocess.run(
                [promtool, "check", "metrics"],
                input=text,
                capture_output=True,
                text=True,
                timeout=60,
            )
            said = done.stdout + done.stderr
            same((done.returncode, said), (0, ""), f"promtool on {daemon.name}'s page")
            world.say(f"{daemon.name}: {text.count(chr(10))} lines")
