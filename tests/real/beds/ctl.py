"""`wormkeyctl` as a person uses it: `open --watch`, `run`, three calm lines, a tunnel that waits."""

import signal
import subprocess
import sys

import origins
from harness import check, free_port, same, until
from registry import bed


def typed(world, *words):
    """A command that goes on, with its output in a file."""
    client = world.first_client
    command = [world.wormkeyctl, "--socket", client.socket, *words]
    return world.spawn(command, "ctl-" + str(words[0]).strip("-"))


@bed("watch")
def watch(world):
    """Shows visits while it stays, and closes on Ctrl-C."""
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        command = typed(world, "open", origin.port, "--name", "watched", "--watch")
        command.line(r"https://watched\.")
        same(world.curl(tunnel, host="watched.t.wormkey.test").status, 200, "a visit")
        command.line(r"GET\s.*200|200.*GET", 10)
        command.signal(signal.SIGINT)
        same(command.child.wait(10), 0, "its exit code after Ctrl-C")
        got = world.curl(tunnel, host="watched.t.wormkey.test")
        same((got.status, got.error), (410, "tunnel_closed"), "after Ctrl-C")
        same(world.curl(tunnel).status, 200, "the other tunnel")


@bed("run")
def run(world):
    """Starts a command, opens when its port answers, closes when it ends, exits as it did."""
    port = free_port()
    served = "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler"
    served += f", port={port}, bind='127.0.0.1')"
    words = ["run", "--name", "ran", "--port", port, "--", sys.executable, "-c", served]
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        # It lists a folder: refused by the exposure guard, and the command ends with the refusal.
        command = typed(world, *words)
        same(command.child.wait(20), 4, "the exit code of what should not be public")
        words.insert(1, "--yes-expose")
        command = typed(world, *words)
        command.line(r"https://ran\.")
        same(world.curl(tunnel, host="ran.t.wormkey.test").status, 200, "a visit")
        command.signal(signal.SIGINT)
        command.child.wait(20)

        def over():
            return world.curl(tunnel, host="ran.t.wormkey.test").status == 410

        until("its tunnel is closed", 10, over)
        failing = [sys.executable, "-c", "raise SystemExit(7)"]
        command = typed(world, "run", "--port", free_port(), "--", *failing)
        same(command.child.wait(20), 7, "the exit code of a command that fails")


@bed("three-lines")
def three_lines(world):
    """What `open` prints: the address alone on standard output's first line, and little more."""
    with origins.plain() as origin:
        client = world.first_client
        words = [world.wormkeyctl, "--socket", client.socket, "open", origin.port]
        words += ["--name", "calm", "--expires", "30m"]
        words = [str(word) for word in words]
        done = subprocess.run(words, capture_output=True, text=True, env=world.env)
        same(done.returncode, 0, "exit code")
        lines = done.stdout.strip().splitlines()
        same(len(lines), 3, f"lines of {done.stdout!r}")
        check(f"https://calm.t.wormkey.test:{world.server.port}" in lines[0], lines[0])
        check(str(origin.port) in lines[1], lines[1])
        check("wormkeyctl close calm" in lines[2], lines[2])
        world.say(" | ".join(lines))


@bed("wait-for")
def wait_for(world):
    """`--wait-for` opens only when the origin answers."""
    port = free_port()
    client = world.first_client
    command = typed(world, "--json", "open", str(port), "--wait-for", "/", "--name", "later")
    code, _, _ = client.ctl_code("show", "later")
    same(code, 5, "not there while nothing answers")
    check(command.child.poll() is None, "it waits")
    with origins.plain(port=port):
        same(command.child.wait(20), 0, "its exit code")
        same(client.show("later")["state"], "open", "then it is open")
    code, _, said = client.ctl_code(
        "open", free_port(), "--wait-for", "/", "--wait-timeout", "300ms"
    )
    same(code, 8, f"nothing ever listens: {said}")
