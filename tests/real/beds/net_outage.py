"""The network goes away and comes back: black holes, blocked UDP, losses, a client that is stopped."""

import contextlib
import signal
import time

import origins
from beds.net_roaming import three_flows
from harness import MIB, Failure, check, limit, same, until
from internet import Internet
from registry import bed
from visits import Download, Load

# From the end of an outage to the first new byte.
WITH_HINT, WITHOUT_HINT = 0.1, 4.0


def outage(world, net, flows, seconds, hint):
    """Everything vanishes for a while; how long each flow needed afterwards."""
    generation = world.first_client.status()["link"]["generation"]
    net.black_hole()
    # What had passed already may still arrive.
    time.sleep(0.2)
    began = [flow.arrivals[-1] for flow in flows]
    time.sleep(seconds - 0.2)
    same([flow.arrivals[-1] for flow in flows], began, "nothing arrives in a black hole")
    check(net.dropped() > 0, "somebody tried")
    if hint:
        # The rules go before the route comes: a packet sent on the news must pass.
        net.flip(hard=False)
    else:
        net.heal()
    restored = time.monotonic()
    took = [flow.next_after(restored, 90) for flow in flows]
    felt = ", ".join(f"{flow.what} {one:.3f}" for flow, one in zip(flows, took))
    kept = world.first_client.status()["link"]["generation"] == generation
    world.say(
        f"{seconds} s, {'a new route' if hint else 'no hint'}: {felt} s after it,"
        f" on {'the same' if kept else 'another'} link"
    )
    return max(took)


@bed("net-blackhole", "python")
def black_hole(world):
    """All packets vanish with data in flight each way, the client's own window full; it goes on."""
    net = Internet(world)
    net.prove_black_hole()
    findings = []
    for seconds in (5, 60) if world.long else (5, 12):
        for hint in (True, False):
            what = f"{seconds} s {'with a new route' if hint else 'without a hint'}"
            # A download of which the end is never reached: it is there to have a full window.
            with three_flows(world, net, 16 * 1024 * MIB) as flows:
                try:
                    took = outage(world, net, flows, seconds, hint)
                    promised = WITH_HINT if hint else WITHOUT_HINT
                    check(took < limit(promised), f"new bytes only after {took:.1f} s")
                    for flow in flows[1:]:
                        flow.finish(60)
                    flows[0].sound()
                except Failure as failure:
                    findings.append(f"{what}: {failure}")
                flows[0].abandon()
    check(not findings, "; ".join(findings))


@bed("net-held", "python")
def held(world):
    """Visits that come in a black hole shorter than the hold are answered after it."""
    net = Internet(world)
    with net.origin() as origin:
        tunnel = world.open(origin.port)
        same(world.curl(tunnel).status, 200, "a visit before")
        with Load(tunnel, 20) as load:
            time.sleep(1)
            net.black_hole()
            time.sleep(5)
            net.heal()
            healed = time.monotonic()
            time.sleep(1)
        # They were asked until a second after it.
        world.say(load.all_answered(load.visits, "20 GETs a second around 5 s of nothing"))
        last = max(visit.ended for visit in load.visits) - healed
        world.say(f"the last of them {last:.2f} s after it")
        check(last - 1 < limit(WITHOUT_HINT), f"the last waited until {last:.1f} s after it")


@bed("net-stopped", "python")
def stopped(world):
    """The client is stopped for less than the hold: visitors wait, and none is refused."""
    net = Internet(world)
    # 8 s at 50 a second are 400 visits of one address that wait at once; 256 is what it gets unasked.
    world.settings["server"]["tunnels"] = {"held_visits": 512}
    world.settings["server"]["limits"] = {"visitor_concurrency": 512}
    with net.origin() as origin:
        tunnel = world.open(origin.port)
        client = world.first_client
        with Load(tunnel, 50) as load:
            time.sleep(1)
            with still(client):
                same(origin_hears(world, tunnel), False, "a stopped client answers")
                time.sleep(8)
            woken = time.monotonic()
            time.sleep(1)
        world.say(load.all_answered(load.visits, "50 GETs a second around 8 s of SIGSTOP"))
        world.say(f"the last of them {max(v.ended for v in load.visits) - woken:.2f} s after SIGCONT")


def origin_hears(world, tunnel):
    return world.curl(tunnel, seconds=0.3).status == 200


@contextlib.contextmanager
def still(client):
    client.process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        client.process.signal(signal.SIGCONT)


@bed("net-stopped-long", "python")
def stopped_for_long(world):
    """The client is stopped for longer than the hold: visitors are told so, until it is back."""
    net = Internet(world)
    with net.origin() as origin:
        tunnel = world.open(origin.port, "--hold", "2s")
        with Load(tunnel, 10) as load:
            time.sleep(1)
            with still(world.first_client):
                began = time.monotonic()
                time.sleep(12)
            woken = time.monotonic()
            until("it recovers by itself", 10, lambda: world.curl(tunnel).status == 200)
            world.say(f"recovered {time.monotonic() - woken:.2f} s after SIGCONT")
            time.sleep(3)
        load.all_answered(load.begun(end=began - 0.2), "before the stop")
        load.all_answered(load.begun(woken + limit(0.1)), "after the stop")
        # Known to be away after a second, held for two: whoever comes later is told at once.
        late = load.begun(began + limit(1) + 2, woken - limit(0.1))
        said = {(visit.status, visit.headers.get("wormkey-error")) for visit in late}
        same(said, {(502, "tunnel_offline")}, "what comes once the hold is over")
        check(all(visit.headers.get("retry-after") for visit in late), "each with Retry-After")
        slowest = max(visit.took for visit in late)
        world.say(f"{len(late)} refusals once the hold was over, the slowest {slowest:.2f} s")
        check(slowest < limit(0.1), f"a refusal took {slowest:.2f} s")


@bed("net-udp-blocked", "python")
def udp_blocked(world):
    """UDP stops in mid-download, and comes back; a client that starts without it."""
    net = Internet(world, megabits=40)
    net.prove_blocked_udp()
    size = (512 if world.long else 192) * MIB
    with net.origin() as origin:
        tunnel = world.open(origin.port)
        client = world.first_client
        download = Download(tunnel, size).start()
        download.reached(size // 8, 60)
        before = path(client)
        net.block_udp()
        # What had passed already may still arrive.
        time.sleep(0.2)
        took = download.next_after(time.monotonic(), 30) + 0.2
        same(before, "udp", "the path before")
        world.say(f"UDP blocked: bytes flow again after {took:.2f} s, status says {path(client)}")
        check(took < limit(4), f"bytes flowed again only after {took:.1f} s")
        download.reached(size // 4, 60)
        same(path(client), "websocket", "the path while UDP is blocked")
        check(net.dropped() > 0, "UDP was really dropped")
        net.heal()
        healed = time.monotonic()
        until("back on UDP", 60, lambda: path(client) == "udp", every=0.1)
        back = time.monotonic() - healed
        world.say(f"UDP heals: back on it after {back:.2f} s")
        check(back < 30 + limit(0), f"back on UDP only after {back:.1f} s")
        check(not download.over, "the download was long enough to be there for both")
        download.finish(120)
        started_without_udp(world, net, origin, client)
        roamed_to_udp(world, net, client)


def path(client):
    return client.status()["link"].get("path")


def started_without_udp(world, net, origin, client):
    client.process.stop()
    net.block_udp()
    began = time.monotonic()
    client.start()

    def opened():
        return client.ctl_code("open", str(origin.port), "--name", "late")[0] == 0

    until("it opens a tunnel with UDP blocked from the start", 30, opened)
    took = time.monotonic() - began
    world.say(f"started with UDP blocked: a tunnel is open after {took:.2f} s")
    same(path(client), "websocket", "its path")
    answer = world.curl(client.open(str(origin.port), "--name", "late"), seconds=10)
    same(answer.status, 200, "a visit of it")
    check(took < limit(3), f"open only after {took:.1f} s")


def roamed_to_udp(world, net, client):
    """From a network that blocks UDP to one that does not, in a WebSocket."""
    generation = client.status()["link"]["generation"]
    same(path(client), "websocket", "the path before the move")
    net.flip(hard=False)
    moved = time.monotonic()
    until("on UDP in the new network", 60, lambda: path(client) == "udp", every=0.05)
    took = time.monotonic() - moved
    world.say(f"in a WebSocket to a network with UDP: on UDP {took:.2f} s after the move")
    check(took < limit(2), f"on UDP only {took:.1f} s after the move")
    same(client.status()["link"]["generation"], generation, "the link")


def megabytes_per_second(world, net, origin, tunnel, down, up):
    """Moves so many bytes each way, checks them, says how fast; the fault is on meanwhile."""
    began = time.monotonic()
    download = Download(tunnel, down).start()
    download.finish(150)
    fetched = time.monotonic()
    body = world.folder / "posted"
    body.write_bytes((origins.BLOCK * (up // len(origins.BLOCK) + 1))[:up])
    answer = world.curl(tunnel, "/", "--data-binary", f"@{body}", "-H", "Expect:", seconds=150)
    same(answer.status, 200, "the upload's status")
    check(origins.sha256_of(up).encode() in answer.body, "the upload's sha256")
    posted = time.monotonic()
    check(net.dropped() > 0, "packets were really dropped")
    return (
        f"{down / MIB:.0f} MiB down at {down / MIB / (fetched - began):.2f} MiB/s,"
        f" {up / MIB:.0f} MiB up at {up / MIB / (posted - fetched):.2f} MiB/s"
    )


@bed("net-lossy", "python")
def lossy(world):
    """Loss of 5 and 30 percent, a path that swallows all above 1280: slow, and byte-exact."""
    net = Internet(world)
    more = 8 if world.long else 1
    with net.origin() as origin:
        tunnel = world.open(origin.port)
        for percent, size in ((5, 8 * MIB), (30, MIB)):
            came = net.prove_loss(percent)
            net.lose(percent)
            pace = megabytes_per_second(world, net, origin, tunnel, size * more, size * more)
            world.say(f"{percent} % lost each way ({came:.0f} % of plain probes came back): {pace}")
            net.heal()
        net.prove_narrow(1280)
        # The link has found that larger packets pass; now they no longer do.
        net.narrow(1280)
        pace = megabytes_per_second(world, net, origin, tunnel, 16 * MIB * more, 16 * MIB * more)
        world.say(f"1280 at most: {pace}")
