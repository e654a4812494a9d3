"""The load tools, and what each run of them costs the processes that are measured."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import time

import cache
from harness import MIB

IPERF_TRIES = 3

# Every name is on loopback, whatever the resolver says; SNI and Host stay the tunnel's.
WRK_SCRIPT = """
local lookup = wrk.lookup
wrk.lookup = function(_, service) return lookup("127.0.0.1", service) end
"""


@dataclasses.dataclass
class Run:
    """One run: how much was done, how fast, and each process's CPU for one of it, in microseconds."""

    rate: float
    cpu: dict
    p50: float | None = None
    p99: float | None = None


class Failed(Exception):
    """The load tool saw errors; the run counts for nothing."""


def tree(process):
    """A process and its children: nginx works in them."""
    mine = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *map(int, mine)]


def cpu_seconds(process):
    """By the scheduler's own count of nanoseconds, of all its threads."""
    spent = 0
    for pid in tree(process):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            try:
                spent += int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return spent / 1e9


def rss_bytes(process):
    total = 0
    for pid in tree(process):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        total += int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024
    return total


def spent_by(subject, work):
    """(what `work` answers, {name: CPU seconds}); the origin's too where there is one, which does TLS for some."""
    processes = subject.processes()
    if origin := getattr(subject.world, "origin", None):
        processes = {**processes, "origin": origin.process}
    before = {name: cpu_seconds(process) for name, process in processes.items()}
    answer = work()
    return answer, {name: max(0.0, cpu_seconds(of) - before[name]) for name, of in processes.items()}


def each(spent, count):
    return {name: seconds / max(count, 1) * 1e6 for name, seconds in spent.items()}


def _said(command, env):
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=300)
    if done.returncode != 0:
        raise Failed(f"{words[0]}: exit {done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}")
    return done.stdout


def _milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def wrk(world, subject, path, connections, seconds, *words):
    """GETs over kept-alive connections, by one thread."""
    script = world.folder / "loopback.lua"
    script.write_text(WRK_SCRIPT)
    command = [cache.program("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-s", script, *words, f"{subject.tunnel.url.rstrip('/')}{path}"]
    said, spent = spent_by(subject, lambda: _said(command, world.env))
    count = int(re.search(r"(\d+) requests in", said)[1])
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: (.*)", said)
    # Each connection that the last answer closes, as was asked, is a read error to it.
    read = r"\d+" if "Connection: close" in words else "0"
    if bad or not count or (broken and not re.fullmatch(f"connect 0, read {read}, write 0, timeout 0", broken[1])):
        raise Failed(f"wrk saw errors: {said}")
    percent = {of: _milliseconds(at) for of, at in re.findall(r"^\s+(50|99)%\s+(\S+)$", said, re.M)}
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
    return Run(rate, each(spent, count), percent.get("50"), percent.get("99"))


def h2load(world, subject, path, connections, streams, seconds):
    """GETs over HTTP/2."""
    tunnel = subject.tunnel
    command = [cache.program("h2load", "nghttp2-client"), f"-c{connections}", f"-m{streams}"]
    command += ["-t1", f"-D{seconds}", "--warm-up-time=0", f"--connect-to=127.0.0.1:{tunnel.port}"]
    command += [f"{tunnel.url.rstrip('/')}{path}"]
    said, spent = spent_by(subject, lambda: _said(command, world.env))
    count, failed = (int(re.search(rf"(\d+) {what}", said)[1]) for what in ("succeeded", "failed"))
    # What is under way when the time is over counts as failed.
    if not count or failed > connections * streams or "Application protocol: h2" not in said:
        raise Failed(f"h2load saw errors: {said}")
    rate = float(re.search(r"finished in [\d.]+(?:us|ms|s), ([\d.]+) req/s", said)[1])
    return Run(rate, each(spent, count))


def quic_program():
    program = os.environ["WORMKEY_QUIC"]
    if not pathlib.Path(program).exists():
        raise cache.Unavailable("no quic: cargo build --release --example quic")
    return program


def h3(world, subject, path, connections, seconds):
    """GETs over HTTP/3, on kept-alive connections with one request at a time."""
    tunnel = subject.tunnel
    command = [quic_program(), "visit", tunnel.host, tunnel.port, tunnel.cafile, path, connections, seconds]
    said, spent = spent_by(subject, lambda: _said(command, world.env))
    count, p50, p99 = said.split()
    return Run(int(count) / seconds, each(spent, int(count)), float(p50), float(p99))


def bare_quic(world, one, way, seconds):
    """MiB per second of one stream of QUIC with nothing around it; `one` is its other end."""
    command = [*_visitor(world), quic_program(), "give", one.port, one.certificate, seconds, way]
    said, spent = spent_by(one, lambda: _said(command, world.env))
    moved, took = map(int, said.split())
    return Run(moved / MIB / (took / 1000), each(spent, moved / MIB))


def download(world, subject, path, size):
    """MiB per second of one download."""
    tunnel = subject.tunnel
    command = [cache.program("curl", "curl"), "-sS", "--http1.1", "--noproxy", "*"]
    command += ["--cacert", tunnel.cafile, "--resolve", f"{tunnel.host}:{tunnel.port}:127.0.0.1"]
    command += ["-o", "/dev/null", "-w", "%{http_code} %{size_download} %{time_total}"]
    command += [f"{tunnel.url.rstrip('/')}{path}"]
    said, spent = spent_by(subject, lambda: _said(command, world.env))
    status, got, seconds = said.split()
    if (status, int(got)) != ("200", size):
        raise Failed(f"curl: {said}")
    return Run(size / MIB / float(seconds), each(spent, size / MIB))


def iperf(world, subject, port, seconds, *words):
    """MiB per second of one stream of bytes, as they arrive."""
    command = [*_visitor(world), cache.program("iperf3", "iperf3"), "-c", "127.0.0.1", "-p", port, "-J"]
    command += ["-t", seconds, *words]
    for _ in range(IPERF_TRIES):
        try:
            said, spent = spent_by(subject, lambda: _said(command, world.env))
        except Failed as failed:
            # It takes the next test when the last one's connections have ended, through all hops.
            why = str(failed)
            time.sleep(1)
            continue
        end = json.loads(said)["end"].get("sum_received")
        if end and end["bytes"] > 0:
            return Run(end["bits_per_second"] / 8 / MIB, each(spent, end["bytes"] / MIB))
        why = "moved nothing"
    raise Failed(f"iperf3: {why}")


def _visitor(world):
    """How a load tool gets into the network of visitors, if that is another than ours."""
    return world.prefixes.get("visitor", [])


def cpus():
    return len(os.sched_getaffinity(0))
