"""What is done to a tunnel. A trial makes its trouble and returns the moment from which all could be
well again: its end, or, where the trouble stays, its beginning."""

import concurrent.futures
import contextlib
import dataclasses
import pathlib
import resource
import signal
import socket
import time
import typing

import cache
from harness import check

TRIALS = {}


@dataclasses.dataclass
class Trial:
    name: str
    run: typing.Callable
    says: str
    quick: bool
    # What visitors ask for, and how long after the trouble a recovery is waited for.
    path: str
    wait: float
    # What only this trial needs, before anything is started.
    prepare: typing.Callable | None


def trial(name, quick=False, path="/", wait=45.0, prepare=None):
    def register(run):
        TRIALS[name] = Trial(name, run, run.__doc__.strip(), quick, path, wait, prepare)
        return run

    return register


LARGE = "/bytes/32768"


@trial("nat-port")
def nat_port(scene):
    """The NAT forgets its mappings and gives other ports, three times in six seconds."""
    for _ in range(3):
        scene.net.nat("conntrack", "-F")
        moment = time.monotonic()
        time.sleep(2)
    return moment


@trial("nat-address", quick=True)
def nat_address(scene):
    """The public address of the client's network changes."""
    scene.net.rebind_address()
    return time.monotonic()


@trial("route-flip", quick=True)
def route_flip(scene):
    """The uplink dies, and the default route moves to another at once."""
    scene.net.flip(hard=True)
    return time.monotonic()


@trial("client-stopped", quick=True)
def client_stopped(scene):
    """The client's process is stopped for 8 s, as on a laptop that sleeps."""
    process = scene.subject.processes()["client"]
    process.signal(signal.SIGSTOP)
    time.sleep(8)
    process.signal(signal.SIGCONT)
    return time.monotonic()


@trial("black-hole-60", wait=90.0)
def black_hole(scene):
    """Everything between client and server vanishes for 60 s."""
    return faulty(scene, 60, scene.net.black_hole)


@trial("loss-5", quick=True, path=LARGE)
def loss_5(scene):
    """5 % of the packets are lost each way, for 15 s."""
    return faulty(scene, 15, lambda: scene.net.lose(5))


@trial("loss-30", path=LARGE)
def loss_30(scene):
    """30 % of the packets are lost each way, for 15 s."""
    return faulty(scene, 15, lambda: scene.net.lose(30))


@trial("mtu-1280", path=LARGE)
def mtu_1280(scene):
    """Packets above 1280 bytes vanish without a word, for 15 s."""
    return faulty(scene, 15, lambda: scene.net.narrow(1280))


@trial("udp-blocked", quick=True)
def udp_blocked(scene):
    """UDP is dropped, from now on."""
    scene.net.block_udp()
    return time.monotonic()


@trial("server-killed", quick=True)
def server_killed(scene):
    """kill -9 of the server, which is started again 2 s later."""
    return killed(scene, "server")


@trial("client-killed")
def client_killed(scene):
    """kill -9 of the client, which is started again 2 s later."""
    return killed(scene, "client")


@trial("origin-restart", quick=True)
def origin_restart(scene):
    """kill -9 of the origin, which is started again 2 s later."""
    scene.origin.kill()
    time.sleep(2)
    scene.start_origin()
    return time.monotonic()


def clock_prepare(scene):
    """Both ends live by a clock that can be moved, which takes the C library's."""
    if not scene.subject.libc:
        raise cache.Unavailable("does not take the time from the C library")
    found = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise cache.Unavailable("no libfaketime; as root install libfaketime")
    scene.clock = scene.world.folder / "clock"
    scene.clock.write_text("+0\n")
    scene.subject.env |= {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(scene.clock),
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }


@trial("clock-jump", prepare=clock_prepare)
def clock_jump(scene):
    """The wall clock of both ends jumps an hour ahead, and 4 s later back."""
    for name, process in scene.subject.processes().items():
        maps = pathlib.Path(f"/proc/{process.pid}/maps").read_text()
        check("libfaketime" in maps, f"the {name} lives by a clock that can be moved")
    scene.clock.write_text("+3600\n")
    time.sleep(4)
    scene.clock.write_text("+0\n")
    return time.monotonic()


def crowd_prepare(scene):
    scene.crowd = scene.subject.crowd = scene.clients


@trial("clients-return", wait=90.0, prepare=crowd_prepare)
def clients_return(scene):
    """kill -9 of a server with many clients, which is started again 2 s later; all return."""
    moment = killed(scene, "server")

    def back(tunnel):
        """When it answers again; a visit that is made to wait may be the one that is answered."""
        while time.monotonic() < moment + 90:
            if answers(tunnel, 10):
                return time.monotonic() - moment
            time.sleep(0.05)
        return None

    # All at once, as long as one address may have so many visits.
    with concurrent.futures.ThreadPoolExecutor(100) as asking:
        times = [took for took in asking.map(back, scene.tunnels) if took is not None]
    missing, last = len(scene.tunnels) - len(times), max(times, default=0.0)
    said = f"{len(times)} of {len(scene.tunnels)} other clients back, the last {last:.1f} s after it"
    scene.world.say(said)
    scene.crowd_back = {"crowd_missing": missing, "crowd_last_seconds": last}
    check(times, "none of the other clients came back")
    return moment


def answers(tunnel, patience=1):
    """Whether a request through it is answered, in a moment."""
    with contextlib.suppress(OSError), tunnel.dial(timeout=patience) as visitor:
        visitor.sendall(f"GET / HTTP/1.1\r\nhost: {tunnel.netloc}\r\n\r\n".encode())
        return visitor.recv(64).startswith(b"HTTP/1.1 200")
    return False


@trial("descriptors")
def descriptors(scene):
    """The server may open only 32 files more; 200 visitors that say nothing come and stay 5 s."""
    process = scene.subject.processes()["server"]
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    allowed = process.descriptors() + 32
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (allowed, before[1]))
    with contextlib.ExitStack() as silent:
        with scene.world.inside():
            plain = [silent.enter_context(socket.socket()) for _ in range(200)]
        for one in plain:
            one.setblocking(False)
            one.connect_ex((scene.subject.tunnel.address, scene.subject.tunnel.port))
        time.sleep(5)
    # The limit stays: what is left over must be enough again.
    return time.monotonic()


def faulty(scene, seconds, fault):
    fault()
    time.sleep(seconds)
    scene.world.say(f"{scene.net.dropped()} packets dropped")
    scene.net.heal()
    return time.monotonic()


def killed(scene, role):
    scene.subject.kill(role)
    time.sleep(2)
    scene.subject.restart(role)
    return time.monotonic()
