"""The two scripts that make the README's figures: a sample of each runs and says something of all that it measures,
so that they are there when somebody wants to measure. What the figures are is not judged here."""

import json
import os
import subprocess
import sys

import cache
from harness import REPOSITORY, check, same
from registry import bed

# The daemons' own part. In --long the peers as well, as far as this machine has them.
LOADS = [
    "kept alive, 64 connections",
    "HTTP/2, 8 connections of 32 streams",
    "HTTP/3, 64 connections",
    "a connection per request, 16 at once",
    "one request at a time",
    "1 MiB, 8 connections",
    "one download of 32 MiB",
    "bytes, to the origin",
    "bytes, from the origin",
    "bytes, to the origin, packets of 1500",
    "bytes, from the origin, packets of 1500",
    "40 ms, 1 % loss",
]


def script(world, name, *words):
    """What it wrote as JSON."""
    file = world.folder / "figures.json"
    command = [sys.executable, REPOSITORY / "tests" / name / "run", "--quick", *words, "--json", file]
    debug = REPOSITORY / "target" / "debug"
    built = {
        "WORMKEYD": debug / "wormkeyd",
        "WORMKEYCTL": debug / "wormkeyctl",
        **{f"WORMKEY_{one.upper()}": debug / "examples" / one for one in ("fleet", "links", "quic")},
    }
    # Set already where others than these are tried.
    env = {**{name: str(path) for name, path in built.items()}, **os.environ}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env, timeout=900)
    check(done.returncode == 0, f"exit {done.returncode}: {done.stdout[-1000:]} {done.stderr[-2000:]}")
    return json.loads(file.read_text())


@bed("bench")
def bench(world):
    """Each load of the benchmarks once, for a second."""
    if os.geteuid() != 0:
        raise cache.Unavailable("the long wire takes root")
    for program, package in (("nginx", "nginx-light"), ("wrk", "wrk"), ("h2load", "nghttp2-client"), ("iperf3", "iperf3")):
        cache.program(program, package)
    peers = [] if world.long else ["--subjects", "wormkey"]
    figures = script(world, "bench", *peers)
    for name in LOADS:
        ours = figures["runs"].get(name, {}).get("wormkey", [])
        check(ours and ours[0]["rate"] > 0, f"{name}: nothing; left out: {figures['left_out']}")
        world.say(f"{name}: {ours[0]['rate']:.1f}")
    for what in ("KiB of an idle link with its tunnel", "KiB of an idle bare link"):
        check(figures["links"].get(what, 0) > 0, f"{what}: {figures['links']}; left out: {figures['left_out']}")
    if not world.long:
        same(figures["left_out"], [], "left out")


@bed("torture")
def torture(world):
    """Two trials of the scorecard; in --long six, with all tunnels."""
    if os.geteuid() != 0:
        raise cache.Unavailable("network namespaces take root")
    some = [] if world.long else ["--tunnels", "wormkey", "--trials", "nat-address,origin-restart"]
    card = script(world, "torture", *some)["trials"]
    for name, of in card.items():
        ours = of["wormkey"]
        check("lost" in ours, f"{name}: {ours}")
        check(ours["recover_seconds"] is not None and ours["name_kept"], f"{name}: {ours}")
        world.say(f"{name}: {ours['lost']} lost, {ours['cut']} cut, back after {ours['recover_seconds']:.2f} s")
