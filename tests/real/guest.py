"""A small virtual machine with the client in it, which really sleeps: Debian's kernel, busybox, and
the daemon with its libraries, all in memory."""

import contextlib
import gzip
import itertools
import json
import pathlib
import re
import shutil
import socket
import subprocess
import time

import cache
from harness import Tunnel, check, until

# Where the guest finds the machine that it runs on.
HOST = "10.0.2.2"
MODULES = [
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/net/virtio_net",
]
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in MODULES; do insmod /modules/$module.ko; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
# Open from here on: what comes to a closed line is lost.
exec 3<>/dev/ttyS1
stty raw -echo <&3
/bin/wormkeyd client --config /etc/client.toml >/dev/ttyS0 2>&1 3<&- &
# Into a pipe, so that the shell neither prompts nor edits.
sh <&3 2>&1 | cat >&3
"""
CONFIG = f"""[state]
dir = "/state"
[admin]
socket = "/run/client.sock"
[origins]
allow = ["{HOST}"]
[log]
format = "text"
"""


class Guest:
    """The virtual machine. It ends with the world."""

    def __init__(self, world):
        self.world = world
        self.folder = world.folder / "guest"
        self.folder.mkdir()
        kernel = cache.kernel()
        qemu = cache.program("qemu-system-x86_64", "qemu-system-x86")
        self._pack(kernel)
        self.process = world.spawn(
            [qemu, "-M", "pc", "-accel", "tcg,thread=single", "-cpu", "max", "-m", "512"]
            + ["-display", "none", "-no-reboot", "-nic", "user,model=virtio-net-pci"]
            + ["-kernel", next((kernel / "boot").glob("vmlinuz-*"))]
            + ["-initrd", self.folder / "initrd", "-append", "console=ttyS0 quiet panic=-1"]
            + ["-serial", "stdio", "-serial", f"unix:{self.folder}/shell,server=on,wait=off"]
            + ["-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"],
            "guest",
        )
        self.qmp = self._connected("qmp").makefile("rw")
        self.qmp.readline()
        self.ask("qmp_capabilities")
        self.shell = self._connected("shell")
        self._numbers = itertools.count()
        self.process.line("client ready", 120)

    def _pack(self, kernel):
        root = self.folder / "root"
        for name in ("bin", "etc", "proc", "sys", "dev", "run", "state", "modules", "tmp"):
            (root / name).mkdir(parents=True)
        busybox = cache.program("busybox", "busybox-static")
        shutil.copy(busybox, root / "bin" / "busybox")
        for program in (self.world.wormkeyd, self.world.wormkeyctl):
            inside = root / "bin" / pathlib.Path(program).name
            # What the debugger would want is most of it.
            subprocess.run([cache.program("strip", "binutils"), "-o", inside, program], check=True)
            needed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
            for library in re.findall(r"(/\S+) \(0x", needed):
                there = root / library.lstrip("/")
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, there)
        modules = next((kernel / "lib" / "modules").iterdir()) / "kernel"
        for module in MODULES:
            shutil.copy(modules / f"{module}.ko", root / "modules")
        names = " ".join(module.rsplit("/", 1)[1] for module in MODULES)
        (root / "init").write_text(INIT.replace("MODULES", names))
        (root / "init").chmod(0o755)
        (root / "etc" / "client.toml").write_text(CONFIG)
        cpio = [cache.program("cpio", "cpio"), "--quiet", "-o", "-H", "newc"]
        listed = "\n".join(str(file.relative_to(root)) for file in root.rglob("*"))
        packed = subprocess.run(
            cpio, cwd=root, input=listed.encode(), capture_output=True, check=True
        ).stdout
        (self.folder / "initrd").write_bytes(gzip.compress(packed, 1))

    def _connected(self, name):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        path = str(self.folder / name)

        def connected():
            with contextlib.suppress(OSError):
                connection.connect(path)
                return True

        until(f"the guest's {name}", 20, connected)
        self.world.undo.callback(connection.close)
        return connection

    def ask(self, command):
        """A word to the machine itself; its answer."""
        self.qmp.write(json.dumps({"execute": command}) + "\n")
        self.qmp.flush()
        while True:
            said = json.loads(self.qmp.readline())
            if "return" in said or "error" in said:
                check("return" in said, f"{command}: {said}")
                return said["return"]

    def run(self, command, seconds=60):
        """Runs a line in the guest's shell; what it printed."""
        mark = f"done-{next(self._numbers)}"
        # The mark in two halves, so that only its output can be taken for it.
        self.shell.sendall(f"{{ {command}\n}} </dev/null 2>&1; echo done''-{mark[5:]} $?\n".encode())
        text, deadline = "", time.monotonic() + seconds
        while not (found := re.search(rf"{mark} (\d+)\r?\n", text)):
            self.shell.settimeout(max(0.01, deadline - time.monotonic()))
            text += self.shell.recv(65536).decode(errors="replace")
        said = text[: found.start()]
        check(found[1] == "0", f"in the guest: {command}: exit {found[1]}\n{said}")
        return said

    def ctl(self, *words):
        """`wormkeyctl --json …` of the guest."""
        typed = " ".join(str(word) for word in words)
        said = self.run(f"wormkeyctl --socket /run/client.sock --json {typed}")
        return json.loads(said[said.index("{") :]) if "{" in said else None

    def open(self, port):
        """A tunnel to an origin on the machine around it."""
        answer = self.ctl("open", f"{HOST}:{port}")
        return Tunnel(answer["url"], self.world.certificates.ca, answer)

    def clocks(self):
        """(monotonic, boot time) in seconds: the first stands still in sleep."""
        said = self.run("grep -m1 '^now at' /proc/timer_list; cat /proc/uptime")
        monotonic = int(re.search(r"now at (\d+)", said)[1]) / 1e9
        return monotonic, float(re.search(r"^([\d.]+) [\d.]+\s*$", said, re.MULTILINE)[1])

    @contextlib.contextmanager
    def asleep(self):
        """Suspends it to memory; on leaving it is woken."""
        self.run("(sleep 0.3; echo mem >/sys/power/state) >/dev/null 2>&1 &")
        until("it sleeps", 30, lambda: self.ask("query-status")["status"] == "suspended")
        yield
        self.ask("system_wakeup")
