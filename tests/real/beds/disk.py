"""Disks that take no more: what is promised stays, what cannot be promised is refused, visits go on."""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
import time

import cache
import origins
from harness import MIB, Tunnel, check, limit, same, until
from registry import bed
from visits import Download, Load

# How large the disks are: what a fresh state takes, and little more.
STATE, LOGS = 8 * MIB, MIB


class Disks:
    """Small disks of a daemon's own, that are gone with it: one for its state, one for what it prints."""

    def __init__(self, world, role):
        if os.geteuid() != 0:
            raise cache.Unavailable("a disk of one's own takes root")
        unshare = cache.program("unshare", "util-linux")
        self.world, self.role = world, role
        script = f"""folder=$(dirname "$4"); mkdir -p "$folder/state" "$folder/logs"
            mount -t tmpfs -o size={STATE},mode=700 none "$folder/state" || exit
            mount -t tmpfs -o size={LOGS} none "$folder/logs" || exit
            exec "$@" >"$folder/logs/out" 2>&1"""
        words = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        world.prefixes[role] = [unshare, *words]

    def found(self, daemon):
        """Its folders, as it sees them."""
        self.folder = pathlib.Path(f"/proc/{daemon.process.pid}/root{daemon.folder}")
        until("its log", 10, lambda: (self.folder / "logs/out").exists())
        return self

    def fill(self, which):
        """To the last byte."""
        with open(self.folder / which / "fill", "ab", buffering=0) as file:
            for size in (65536, 4096, 512, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self, which):
        (self.folder / which / "fill").unlink()

    def log(self):
        return (self.folder / "logs/out").read_text(errors="replace")


def sound(world, state, role):
    """SQLite's own opinion of what a daemon has written."""
    copy = world.folder / f"copy-{role}"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for file in state.glob(f"{role}.db*"):
        shutil.copy2(file, copy)
    with contextlib.closing(sqlite3.connect(copy / f"{role}.db")) as database:
        same(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "integrity_check")
        return {slug for (slug,) in database.execute("SELECT slug FROM tunnels")}


class Names:
    """Tunnels that are asked for one after the other; those that were promised."""

    def __init__(self, client, port):
        self.client, self.port, self.promised, self.asked = client, port, [], 0

    def open(self):
        """The code that it was refused with; empty when it was not."""
        self.asked += 1
        name = f"name-{self.asked}"
        code, out, err = self.client.ctl_code("open", self.port, "--name", name)
        if code == 0:
            self.promised.append(name)
            return ""
        return out + err

    def until_refused(self, word):
        """Opens until that is refused with this code. What there is room for may still be promised."""
        until(f"{word}", 120, lambda: word in self.open())
        for _ in range(3):
            said = self.open()
            check(said == "" or word in said, said)

    def until_taken(self, promised):
        """Seconds until one is opened again, which must be soon."""
        began = time.monotonic()
        until("a tunnel is opened again", limit(promised), lambda: self.open() == "", every=0.1)
        return time.monotonic() - began


def visits_meanwhile(world, tunnel, work, what):
    """Does something under visits and a download, which must not notice."""
    download = Download(tunnel, 8 * 1024 * MIB).start()
    download.reached(MIB, 30)
    with Load(tunnel, 20) as load:
        time.sleep(0.3)
        done = work()
        before = download.taken
        until("the download goes on", 20, lambda: download.taken > before + MIB)
        time.sleep(0.3)
    download.sound()
    download.abandon()
    until("the download ends", 10, lambda: download.over)
    world.say(load.all_answered(load.visits, what))
    return done


@bed("disk-full")
def full(world):
    """The server's state, what it prints, and the client's state, one after the other."""
    world.log_level = "debug"
    disks = {role: Disks(world, role) for role in ("server", "client")}
    with origins.plain() as origin:
        client, server = world.first_client, world.server
        disks["server"].found(server)
        disks["client"].found(client)
        tunnel = world.open(origin.port, "--name", "visited")
        names = Names(client, origin.port)
        for role, daemon in (("server", server), ("client", client)):
            disk = disks[role]

            def filled():
                disk.fill("state")
                names.until_refused("disk_full")

            visits_meanwhile(world, tunnel, filled, f"the {role}'s state is full")
            if role == "server":
                code, out, err = server.ctl_code("invite")
                check(code != 0 and "disk_full" in out + err, f"an invitation: {code} {out}{err}")
                same(server.status()["tunnels"] > 0, True, "it still says how it is")
            disk.free("state")
            took = names.until_taken(10)
            world.say(f"{took:.2f} s after there is room on the {role}'s disk a tunnel is opened")
            check(not set(names.promised) - sound(world, disk.folder / "state", role), "promises are gone")

            def printed():
                disk.fill("logs")
                length = len(disk.log())
                for _ in range(30):
                    world.curl(tunnel)
                check(len(disk.log()) - length < 8192, "there was room for what it prints")
                same(names.open(), "", "a tunnel while nothing can be printed")

            visits_meanwhile(world, tunnel, printed, f"the {role}'s log is full")
            disk.free("logs")
            length = len(disk.log())
            world.curl(tunnel)
            until(f"the {role} prints again", limit(1), lambda: len(disk.log()) > length)
        for name in (names.promised[0], names.promised[-1]):
            shown = client.show(name)
            last = Tunnel(shown["url"], world.certificates.ca, shown)
            until(f"{name} is visited", 20, lambda: world.curl(last).status == 200)
        said = [one for disk in disks.values() for one in disk.log().splitlines() if "panicked" in one]
        same(said, [], "panics")


@bed("write-fails")
def write_fails(world):
    """Writes fail for another reason than space: no file may grow beyond a size that it has reached. Nearest
    to a disk that reports errors, of what can be had without a device of one's own; an fsync or a rename
    that fails is not among it."""
    prlimit = cache.program("prlimit", "util-linux")
    for role in ("server", "client"):
        # Whoever is not deaf to the signal would be ended by it.
        world.prefixes[role] = ["sh", "-c", 'trap "" XFSZ; exec "$@"', "sh"]
    with origins.plain() as origin:
        client, server = world.first_client, world.server
        tunnel = world.open(origin.port, "--name", "visited")
        names = Names(client, origin.port)
        for daemon in (server, client):
            same(names.open(), "", "a tunnel before")

            def grow(most):
                words = [prlimit, f"--pid={daemon.process.pid}", f"--fsize={most}:"]
                subprocess.run(words, check=True)

            def refused():
                grow(4096)
                names.until_refused("storage")

            visits_meanwhile(world, tunnel, refused, f"the {daemon.role} cannot write")
            grow("unlimited")
            took = names.until_taken(10)
            world.say(f"{took:.2f} s after it can write again a tunnel is opened through the {daemon.role}")
            state = daemon.folder / "state"
            check(not set(names.promised) - sound(world, state, daemon.role), "promises are gone")
        # What failed is on no disk, and what was promised is, whatever is in memory.
        server.process.kill()
        client.process.kill()
        server.start()
        client.start()
        for name in (names.promised[0], names.promised[-1]):
            shown = client.show(name)
            last = Tunnel(shown["url"], world.certificates.ca, shown)
            until(f"{name} is visited", 30, lambda: world.curl(last, seconds=5).status == 200)
        rows = {row["slug"] for row in server.ctl("tunnels")["tunnels"] if row["state"] != "closed"}
        same(set(names.promised) - rows, set(), "promised, and gone")
