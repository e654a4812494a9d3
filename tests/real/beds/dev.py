"""`wormkeyd dev`: both daemons in one process, no set-up, nothing left behind."""

import os
import pathlib
import re
import signal
import subprocess

import cache
import origins
from harness import check, free_port, same
from registry import bed


def ask(world, url, cafile, *words):
    """As the printed line says: curl resolves `*.localhost` itself."""
    command = [cache.program("curl", "curl"), "-sS", "--noproxy", "*", "--max-time", "20"]
    command += ["--cacert", cafile, "-w", "\n%{http_code} %{http_version}", *words, url]
    done = subprocess.run(command, capture_output=True, text=True, env=world.env)
    check(done.returncode == 0, f"curl {url}: {done.stderr}")
    body, _, last = done.stdout.rpartition("\n")
    return (*last.split(), body)


def children(pid):
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def play(world, name, target, looks):
    place = world.folder / name
    place.mkdir()
    words = [world.wormkeyd, "dev", *target, "--port", free_port()]
    process = world.spawn(words, name, {"TMPDIR": str(place)})
    url = process.line(r"(https://[a-z0-9-]+\.localhost:\d+)")[1]
    cafile = process.line(r"--cacert (\S+)")[1].strip("'\"")
    looks(url, cafile)
    check(os.listdir(place), "its state is in the temporary folder")
    left = children(process.pid)
    process.signal(signal.SIGINT)
    same(process.child.wait(20), 0, "its exit code after Ctrl-C")
    same(os.listdir(place), [], "what it leaves in the temporary folder")
    check(not any(os.path.exists(f"/proc/{pid}") for pid in left), "it leaves processes")
    check("panicked" not in process.text(), f"a panic:\n{process.text()}")


@bed("dev")
def dev(world):
    def sample(url, cafile):
        status, version, body = ask(world, url, cafile)
        same((status, version), ("200", "2"), "the sample page")
        check(re.search(r"HTTP/2", body), "the page shows the visit's version")
        check("127.0.0.1" in body or "::1" in body, "the page shows the visitor's address")
        check("x-of-the-bed" in ask(world, url, cafile, "-H", "x-of-the-bed: 1")[2].lower(), "headers")

    play(world, "dev-sample", [], sample)
    with origins.plain() as origin:

        def hello(url, cafile):
            for version in ("1.1", "2"):
                got = ask(world, url, cafile, f"--http{version}")
                same(got, ("200", version, "hello from the origin\n"), "the target")

        play(world, "dev-target", [origin.port], hello)
