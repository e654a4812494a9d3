"""A backup of a server that is being written to, and the server's life on another disk."""

import contextlib
import pathlib
import shutil
import sqlite3
import subprocess
import threading

import origins
from harness import DOMAIN, Server, Tunnel, check, same, until
from registry import bed

# Backups, one after the other, and tunnels that are opened before each; they go on being opened meanwhile.
ROUNDS = 5
AT_LEAST = 15


class Openings:
    """Tunnels opened one after the other by several people; which of them were promised, and when."""

    def __init__(self, client, port, people=3):
        self.promised, self.errors = [], []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(client, port, person), daemon=True)
            for person in range(people)
        ]

    def _run(self, client, port, person):
        number = 0
        while not self._over.is_set():
            name = f"p{person}-{number}"
            code, _, err = client.ctl_code("open", port, "--name", name)
            if code != 0:
                return self.errors.append(err)
            self.promised.append(name)
            number += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()


@bed("backup")
def backup(world):
    """All that was promised before a backup began is in it, and visited from another disk."""
    client, old = world.first_client, world.server
    with origins.plain() as origin:
        with Openings(client, origin.port) as openings:
            for number in range(1, ROUNDS + 1):
                wanted = number * AT_LEAST
                until(f"{wanted} tunnels", 120, lambda: len(openings.promised) >= wanted)
                file = world.folder / f"backup-{number}.db"
                before = list(openings.promised)
                old.ctl("backup", file)
                same(file.stat().st_mode & 0o777, 0o600, "the backup's mode")
                sound(file, before)
        same(openings.errors, [], "openings that failed")
        world.say(f"{ROUNDS} backups among {len(openings.promised)} openings, {len(before)} before the last")
        check(b"PRIVATE KEY" not in file.read_bytes(), "the key is in the backup")
        elsewhere(world, old, file)
        listed = {one["slug"] for one in world.server.ctl("tunnels")["tunnels"]}
        same(set(before) - listed, set(), "promised, and not in the restored server")
        # The client still has their promises, and takes them back under their names.
        for name in (before[0], before[-1]):
            shown = client.show(name)
            tunnel = Tunnel(shown["url"], world.certificates.ca, shown)
            until(f"{name} is visited", 60, lambda: world.curl(tunnel, seconds=20).status == 200)


def sound(file, names):
    """SQLite's own opinion of the backup, and what is in it."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        same(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "integrity_check")
        slugs = {slug for (slug,) in database.execute("SELECT slug FROM tunnels")}
    same(set(names) - slugs, set(), "promised before it began, and not in the backup")


def elsewhere(world, old, file):
    """The disk dies; what was kept apart is the key, and the backup."""
    old.process.kill()
    died = old.folder.rename(world.folder / "died")
    world.server = Server(world)
    world.server.port = old.port
    certificates = world.certificates
    at = f"{world.address}:{old.port}"
    world.server.configure(
        domain=DOMAIN,
        listen={"https": at, "http": "off", "advertise": [at]},
        tls={"mode": "files", "cert": certificates.leaf, "key": certificates.leaf_key},
    )
    state = pathlib.Path(world.server.folder / "state")
    state.mkdir(mode=0o700)
    shutil.copy2(died / "state/server.key", state / "server.key")
    words = [world.wormkeyd, "server", "--config", world.server.config, "restore", file]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=world.env)
    same(done.returncode, 0, f"restore: {done.stdout}{done.stderr}")
    world.server.start()
