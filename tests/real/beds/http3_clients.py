"""HTTP/3 by other people's clients: Chromium, curl, and Firefox, which comes by Alt-Svc."""

import asyncio
import hashlib
import json
import re
import subprocess
import time

import browser
import cache
import origins
from harness import MIB, PeakRss, check, free_port, same
from registry import bed


@bed("http3_chromium", "python")
def chromium(world):
    """A page and what it fetches, all of it over HTTP/3."""
    size = 4 * MIB
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        page = browser.Browser(world, "quic", tunnel, size=size)
        same(page.saw("status"), 200, "the page's status")
        seen = page.saw("seen")
        check(len(seen["used"]) >= 3, f"page, download and upload: {seen}")
        same(set(seen["used"]), {"h3"}, "what was used for all of them")
        same(seen["size"], size, "what was downloaded")
        same(seen["posted"]["sha256"], origins.sha256_of(size), "what was uploaded")
        page.done()


@bed("http3_curl", "python", long=True)
def curl(world):
    """A gibibyte down and half of one up, by curl over each version; and a thousand small answers."""
    words = cache.new_curl()
    with origins.plain() as origin:
        tunnel = world.open(origin.port)
        rates = {}
        for flag, version in {"--http1.1": "1.1", "--http2": "2", "--http3-only": "3"}.items():
            with PeakRss(**world.daemons()) as peak:
                down = download(world, words, tunnel, flag, version, 1024 * MIB)
                up = upload(world, words, tunnel, flag, version, 512 * MIB)
            rates[version] = small(world, words, tunnel, flag, 1000)
            world.say(
                f"HTTP/{version}: {down:.0f} MiB/s down, {up:.0f} MiB/s up, "
                f"{rates[version]:.0f} small answers a second; {peak.said()}"
            )
        check(rates["3"] >= 0.3 * rates["1.1"], f"HTTP/3 is slow: {rates}")


def command(words, tunnel, flag, *more):
    at = ["--cacert", tunnel.cafile, "--resolve", f"{tunnel.host}:{tunnel.port}:{tunnel.address}"]
    return [*words, flag, "-sS", "--max-time", "600", "--noproxy", "*", *at, *more]


def download(world, words, tunnel, flag, version, size):
    """MiB a second; the body is digested as it comes."""
    report = world.folder / "curl.report"
    asked = ["-w", f"%output{{{report}}}%{{http_version}} %{{http_code}}"]
    url = f"https://{tunnel.netloc}/bytes/{size}"
    began = time.monotonic()
    with subprocess.Popen(
        command(words, tunnel, flag, *asked, url), stdout=subprocess.PIPE, env=world.env
    ) as running:
        digest = hashlib.file_digest(running.stdout, "sha256")
    took = time.monotonic() - began
    same(running.returncode, 0, f"curl {flag}")
    same(report.read_text(), f"{version} 200", "version and status")
    same(digest.hexdigest(), origins.sha256_of(size), f"{size // MIB} MiB over HTTP/{version}")
    return size / MIB / took


def upload(world, words, tunnel, flag, version, size):
    file = world.folder / "upload"
    if not file.exists():
        with open(file, "wb") as out:
            for _ in range(size // len(origins.BLOCK)):
                out.write(origins.BLOCK)
    began = time.monotonic()
    done = subprocess.run(
        command(words, tunnel, flag, "-T", file, f"https://{tunnel.netloc}/sum"),
        capture_output=True,
        text=True,
        env=world.env,
    )
    took = time.monotonic() - began
    same(done.returncode, 0, f"curl {flag} -T: {done.stderr}")
    same(json.loads(done.stdout)["sha256"], origins.sha256_of(size), f"up over HTTP/{version}")
    return size / MIB / took


def small(world, words, tunnel, flag, count):
    """Answers a second, 32 at once."""
    more = ["-Z", "--parallel-max", "32", "-o", "/dev/null", "-w", "%{http_code}\\n"]
    began = time.monotonic()
    done = subprocess.run(
        command(words, tunnel, flag, *more, f"https://{tunnel.netloc}/?[1-{count}]"),
        capture_output=True,
        text=True,
        env=world.env,
    )
    took = time.monotonic() - began
    same(done.stdout.split(), ["200"] * count, f"{count} answers to curl {flag} {done.stderr[:300]}")
    return count / took


@bed("http3_firefox", "python", long=True)
def firefox(world):
    """Firefox comes over TCP, reads Alt-Svc, and comes over QUIC from then on."""
    program = cache.program("firefox-esr", "firefox-esr")
    with origins.plain("<!doctype html><title>page</title>") as origin:
        tunnel = world.open(origin.port)
        port = free_port()
        profile = profiled(world, tunnel)
        words = [program, "--headless", "--no-remote", "--profile", profile]
        running = world.spawn([*words, f"--remote-debugging-port={port}"], "firefox", cwd=profile)
        running.line(r"WebDriver BiDi listening on", 60)
        asyncio.run(upgraded(world, tunnel, port))


def profiled(world, tunnel):
    """A profile that trusts the world's authority, finds its names, and knows HTTP/3 is wanted."""
    profile = world.folder / "firefox"
    browser.trust_in(profile, tunnel.cafile, world.env)
    wanted = {
        "network.http.http3.enable": True,
        "network.http.http3.disable_when_third_party_roots_found": False,
        "network.dns.localDomains": tunnel.host,
        "remote.active-protocols": 1,
    }
    lines = [f"user_pref({json.dumps(key)}, {json.dumps(of)});" for key, of in wanted.items()]
    (profile / "user.js").write_text("\n".join(lines) + "\n")
    return profile


async def upgraded(world, tunnel, port):
    import websockets

    async with websockets.connect(f"ws://127.0.0.1:{port}/session", max_size=None) as socket:
        numbers = iter(range(1, 1000))

        async def ask(method, **params):
            number = next(numbers)
            await socket.send(json.dumps({"id": number, "method": method, "params": params}))
            while True:
                said = json.loads(await asyncio.wait_for(socket.recv(), 30))
                if said.get("id") == number:
                    check(said["type"] == "success", f"{method}: {said}")
                    return said["result"]

        await ask("session.new", capabilities={})
        tree = await ask("browsingContext.getTree")
        context = tree["contexts"][0]["context"]
        used = []
        while "h3" not in used[-1:]:
            check(len(used) < 40, f"no HTTP/3 after {used}")
            url = f"{tunnel.url.rstrip('/')}/?{len(used)}"
            await ask("browsingContext.navigate", context=context, url=url, wait="complete")
            asked = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
            got = await ask(
                "script.evaluate", expression=asked, target={"context": context}, awaitPromise=False
            )
            used.append(got["result"]["value"])
            await asyncio.sleep(0.25)
        check(re.fullmatch("h2|http/1.1", used[0]), f"it began with {used[0]}")
        world.say(f"Firefox: {used[0]}, then h3 from load {len(used)} on")
