"""Headless Chromium for the beds, trusting the bed's own authority and nothing else new."""

import json
import re
import subprocess

import cache
from harness import check


class Browser:
    """One run of a script of `pages/browser.cjs`."""

    def __init__(self, world, script, tunnel, path="/", **more):
        node, folder = cache.node()
        home = world.folder / "browser"
        home.mkdir(exist_ok=True)
        if tunnel.cafile:
            trust(home, tunnel.cafile, world.env)
        ask = {"script": script, "url": tunnel.url.rstrip("/") + path, "home": str(home)}
        ask |= {"chromium": cache.program("chromium", "chromium"), **more}
        command = [node, cache.HERE / "pages" / "browser.cjs", json.dumps(ask)]
        env = {"NODE_PATH": str(folder / "node_modules"), "HOME": str(home)}
        self.process = world.spawn(command, f"browser-{script}", env, stdin=subprocess.PIPE)

    def saw(self, what, seconds=120):
        """The first value of that name the script printed."""
        return json.loads(self.process.line(rf"^{what} (.*)$", seconds)[1])

    def all(self, what):
        return [json.loads(text) for text in re.findall(rf"(?m)^{what} (.*)$", self.process.text())]

    def tell(self, line):
        self.process.child.stdin.write(f"{line}\n".encode())
        self.process.child.stdin.flush()

    def done(self):
        self.saw("done")
        check(self.process.child.wait(20) == 0, "the browser ended well")


def trust(home, cafile, env):
    """Puts the authority into the store that Chromium reads."""
    store = home / ".pki" / "nssdb"
    if not store.exists():
        trust_in(store, cafile, env)


def trust_in(store, cafile, env):
    """The same, into a folder with the files of a store."""
    certutil = cache.program("certutil", "libnss3-tools")
    store.mkdir(parents=True, exist_ok=True)
    for words in [["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "tests", "-i", cafile]]:
        command = [certutil, "-d", f"sql:{store}", *words]
        subprocess.run(command, check=True, capture_output=True, env=env)
