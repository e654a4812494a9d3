"""A small internet in network namespaces, and what can go wrong in it.

    client --- uplink a ---\\
                            NAT --- server, visitors
    client --- uplink b ---/

The namespaces live in processes that end with this one, so they are gone however it ends.
Every fault is shown to do its work on plain traffic before a bed leans on it.
"""

import contextlib
import ctypes
import itertools
import os
import re
import socket
import subprocess
import threading
import time

import cache
import origins
from harness import check, same, until

SERVER = "10.9.3.2"
# What the NAT shows of each uplink, and two more addresses that it can change to.
SHOWN = {"a": "10.9.3.11", "b": "10.9.3.12"}
SHOWN_LATER = ("10.9.3.13", "10.9.3.14")
PROBE_PORT = 9

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace, held by a sleeping process."""

    def __init__(self, world, name):
        unshare = cache.program("unshare", "util-linux")
        holder = world.spawn([unshare, "--net", "sleep", "infinity"], f"net-{name}")
        path = f"/proc/{holder.pid}/ns/net"
        ours = os.readlink("/proc/self/ns/net")
        until(f"the network of {name}", 10, lambda: os.readlink(path) != ours)
        self.pid = holder.pid
        self.prefix = ["nsenter", f"--net={path}"]
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        world.undo.callback(os.close, self._file)
        self("ip", "link", "set", "lo", "up")

    def __call__(self, *words, stdin=None, may_fail=False):
        """Runs a command in it; what it printed."""
        command = [*self.prefix, *(str(word) for word in words)]
        done = subprocess.run(command, capture_output=True, text=True, input=stdin)
        said = f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        check(done.returncode == 0 or may_fail, said)
        return done.stdout

    @contextlib.contextmanager
    def inside(self):
        """Sockets that this thread makes meanwhile live there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._file)
            yield
        finally:
            _enter(home)
            os.close(home)


def _enter(file):
    if _LIBC.setns(file, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Internet:
    """The namespaces wired up; its methods are the faults."""

    def __init__(self, world, megabits=80):
        if os.geteuid() != 0:
            raise cache.Unavailable("network namespaces take root")
        for name, package in (
            ("nft", "nftables"),
            ("conntrack", "conntrack"),
            ("ip", "iproute2"),
            ("nsenter", "util-linux"),
        ):
            cache.program(name, package)
        self.world = world
        self.client = Namespace(world, "client")
        self.nat = Namespace(world, "nat")
        self.server = Namespace(world, "server")
        self._wire(megabits)
        self._later = itertools.cycle(SHOWN_LATER)
        self.uplink = "a"
        world.address = SERVER
        world.inside = self.server.inside
        world.prefixes = {
            "server": self.server.prefix,
            "visitor": self.server.prefix,
            "client": self.client.prefix,
        }
        # As it is installed: keep-alives and all.
        for role in ("server", "client"):
            world.settings.setdefault(role, {})["link"] = None
        self._answering_probes()
        same(self.probe(), SHOWN["a"], "a probe comes from the first uplink's address")

    def _wire(self, megabits):
        for uplink, net in (("a", 1), ("b", 2)):
            self._cable(self.client, f"c{uplink}", self.nat, f"n{uplink}")
            self.client("ip", "addr", "add", f"10.9.{net}.2/24", "dev", f"c{uplink}")
            self.nat("ip", "addr", "add", f"10.9.{net}.1/24", "dev", f"n{uplink}")
            for space, device in ((self.client, f"c{uplink}"), (self.nat, f"n{uplink}")):
                shape = f"rate {megabits}mbit burst 32kb latency 50ms".split()
                space("tc", "qdisc", "add", "dev", device, "root", "tbf", *shape)
        self._cable(self.nat, "ns", self.server, "s")
        self.server("ip", "addr", "add", f"{SERVER}/24", "dev", "s")
        for address in ("10.9.3.1", *SHOWN.values(), *SHOWN_LATER):
            self.nat("ip", "addr", "add", f"{address}/24", "dev", "ns")
        self.nat("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.nat(
            "nft",
            "-f",
            "-",
            stdin="""table ip wormkey {
                chain post { type nat hook postrouting priority srcnat; }
                chain pass { type filter hook forward priority filter; }
            }""",
        )
        self._show(SHOWN["a"], SHOWN["b"])
        self.route("a")

    @contextlib.contextmanager
    def origin(self, make=origins.plain):
        """An origin beside the client."""
        with contextlib.ExitStack() as stack:
            with self.client.inside():
                made = stack.enter_context(make())
            yield made

    @staticmethod
    def _cable(one, device, other, far):
        one("ip", "link", "add", device, "type", "veth", "peer", "name", far, "netns", other.pid)
        for space, name in ((one, device), (other, far)):
            # Whole packets, so that rules and losses meet what a wire would carry.
            space("ip", "link", "set", name, "gso_max_segs", "1", "up")

    def _show(self, a, b):
        rules = ["flush chain ip wormkey post"]
        for net, address in (("10.9.1.0/24", a), ("10.9.2.0/24", b)):
            for protocol in ("udp", "tcp"):
                rules.append(
                    f"add rule ip wormkey post ip saddr {net} meta l4proto {protocol}"
                    f" snat to {address}:20000-60000 random,fully-random"
                )
        self.nat("nft", "-f", "-", stdin="\n".join(rules))

    def route(self, uplink):
        """The client's default route."""
        net = {"a": 1, "b": 2}[uplink]
        self.client("ip", "route", "replace", "default", "via", f"10.9.{net}.1", "dev", f"c{uplink}")
        self.uplink = uplink

    # --- what can go wrong ------------------------------------------------------------------------

    def flip(self, hard, gap=0):
        """The default route moves to the other uplink; `hard`: the one it leaves dies first, with what
        is under way on it, and stays so until `heal`; `gap`: so many seconds before the move."""
        left = self.uplink
        self.heal()
        if hard:
            self.drop(f'iifname "n{left}"', f'oifname "n{left}"')
            time.sleep(gap)
        self.route("b" if left == "a" else "a")

    def rebind_port(self):
        """The NAT forgets its mappings, and makes others with the next packet."""
        self.nat("conntrack", "-D", "-p", "udp", may_fail=True)

    def rebind_address(self):
        """The NAT's public address changes."""
        self._show(*[next(self._later)] * 2)
        self.nat("conntrack", "-F")

    def drop(self, *matches):
        """Packets of these matches vanish, until `heal`."""
        rules = [f"add rule ip wormkey pass {match} counter drop" for match in matches]
        self.nat("nft", "-f", "-", stdin="\n".join(rules))

    def black_hole(self):
        self.drop("")

    def block_udp(self):
        self.drop("meta l4proto udp")

    def lose(self, percent):
        """Each packet, either way, is lost with that probability."""
        self.drop(f"numgen random mod 100 < {percent}")

    def narrow(self, mtu):
        """Larger packets vanish without a word."""
        self.drop(f"meta length > {mtu}")

    def heal(self):
        self.nat("nft", "flush", "chain", "ip", "wormkey", "pass")

    def dropped(self):
        """Packets that the present rules have dropped."""
        text = self.nat("nft", "list", "chain", "ip", "wormkey", "pass")
        return sum(int(number) for number in re.findall(r"packets (\d+) bytes \d+ drop", text))

    # --- proof ------------------------------------------------------------------------------------

    def _answering_probes(self):
        """Answers plain UDP and TCP with the address that it was asked from."""
        with self.server.inside():
            datagrams = socket.socket(type=socket.SOCK_DGRAM)
            datagrams.bind((SERVER, PROBE_PORT))
            listener = socket.create_server((SERVER, PROBE_PORT))

        def answer_datagrams():
            with contextlib.suppress(OSError):
                while (got := datagrams.recvfrom(2048))[0]:
                    data, peer = got
                    datagrams.sendto(f"{data.split()[0].decode()} {peer[0]} {peer[1]}".encode(), peer)

        def answer_connections():
            with contextlib.suppress(OSError):
                while True:
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(peer[0].encode())

        for serve in (answer_datagrams, answer_connections):
            threading.Thread(target=serve, daemon=True).start()

        def over():
            for one in (datagrams, listener):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

        self.world.undo.callback(over)

    @contextlib.contextmanager
    def prober(self):
        """A plain UDP socket at the client that talks to the server: a function that says from which
        (address, port) its packet came there, or None when nothing came back."""
        with self.client.inside():
            plain = socket.socket(type=socket.SOCK_DGRAM)
        numbers = itertools.count()

        def ask(size=0, wait=0.5):
            mark = str(next(numbers))
            with contextlib.suppress(OSError):
                plain.sendto((mark + " ").encode().ljust(size, b"x"), (SERVER, PROBE_PORT))
            deadline = time.monotonic() + wait
            while (left := deadline - time.monotonic()) > 0:
                plain.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    came, address, port = plain.recv(2048).decode().split()
                    if came == mark:
                        return address, int(port)
            return None

        with plain:
            yield ask

    def probe(self):
        """From which address plain UDP reaches the server now; None when it does not."""
        with self.prober() as ask:
            answer = ask()
        return answer and answer[0]

    def probe_tcp(self):
        """The same for TCP."""
        with self.client.inside():
            plain = socket.socket()
        with plain, contextlib.suppress(OSError):
            plain.settimeout(0.7)
            plain.connect((SERVER, PROBE_PORT))
            return plain.recv(100).decode() or None

    def prove_flips(self):
        with self.prober() as ask:
            for hard, shown in ((True, "b"), (False, "a"), (False, "b"), (True, "a")):
                self.flip(hard)
                same(ask()[0], SHOWN[shown], "plain UDP after a flip comes from")
            self.black_hole()
            same(ask(), None, "plain UDP in a black hole")
            self.heal()

    def prove_rebinding(self):
        with self.prober() as ask:
            before = ask()
            same(ask(), before, "a mapping stays while nothing happens")
            self.rebind_port()
            after = ask()
            check(after[0] == before[0] and after[1] != before[1], f"{before} became {after}")
            self.rebind_address()
            moved = ask()
            check(moved[0] in SHOWN_LATER, f"{after} became {moved}")
        self._show(SHOWN["a"], SHOWN["b"])
        self.nat("conntrack", "-F")

    def prove_black_hole(self):
        self.black_hole()
        same((self.probe(), self.probe_tcp()), (None, None), "what passes a black hole")
        check(self.dropped() > 0, "it counts what it swallows")
        self.heal()
        same((self.probe(), self.probe_tcp()), (SHOWN[self.uplink],) * 2, "afterwards")

    def prove_blocked_udp(self):
        self.block_udp()
        same((self.probe(), self.probe_tcp()), (None, SHOWN[self.uplink]), "with UDP blocked")
        self.heal()

    def prove_loss(self, percent, probes=300):
        """Both ways count: of the probes, (1 - p)² come back. How many percent did."""
        self.lose(percent)
        with self.prober() as ask:
            came = sum(ask(wait=0.004) is not None for _ in range(probes)) / probes
        self.heal()
        expected = (1 - percent / 100) ** 2
        check(abs(came - expected) < 0.12, f"{came:.2f} of the probes came back, not {expected:.2f}")
        return 100 * came

    def prove_narrow(self, mtu):
        self.narrow(mtu)
        with self.prober() as ask:
            check(ask(size=mtu - 28) is not None, "a packet that just fits passes")
            same(ask(size=mtu - 27), None, "one byte more")
        self.heal()

    def link_mapping(self, port):
        """(address, port) pairs that the NAT shows the server for UDP to `port`, as it knows them."""
        words = ["conntrack", "-L", "-p", "udp", "--dport", str(port)]
        text = self.nat(*words, may_fail=True)
        return re.findall(rf"src={re.escape(SERVER)} dst=(\S+) sport={port} dport=(\d+)", text)
