"""Machines of their own: containers that boot a real systemd from Debian's packages, and the packages
of wormkey to install in them."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import cache
from harness import REPOSITORY, check, same, until


class Box:
    """A booted machine on a throw-away copy of a distribution. It ends with the world."""

    def __init__(self, world, name, suite="bookworm", network=None, extra=""):
        if os.geteuid() != 0:
            raise cache.Unavailable("a container with systemd takes root")
        self.world, self.name, self.network = world, name, network
        self._nspawn = cache.program("systemd-nspawn", "systemd-container")
        lower = cache.debian(suite, cache.BOXED + (f",{extra}" if extra else ""))
        folder = world.folder / f"box-{name}"
        self.root = folder / "root"
        for part in ("root", "upper", "work"):
            (folder / part).mkdir(parents=True)
        layers = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise cache.Unavailable(f"this machine mounts no overlays: {done.stderr.strip()}")
        self.process = self.leader = None
        world.undo.callback(self._end)
        self._boots = 0
        self.boot()

    def boot(self):
        self._boots += 1
        self.leader = None
        command = [self._nspawn, "--quiet", "-D", self.root, f"--machine=wk-{os.getpid()}-{self.name}"]
        command += ["--register=no", "--keep-unit", "--console=pipe", "--boot"]
        if self.network:
            command += [f"--network-namespace-path=/proc/{self.network.pid}/ns/net"]
        else:
            command += ["--private-network"]
        self.process = self.world.spawn(command, f"box-{self.name}-{self._boots}")
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")

        def booted():
            if self.process.child.poll() is not None:
                said = self.process.text()[-500:].strip()
                if self._boots == 1:
                    raise cache.Unavailable(f"this machine boots no containers: {said}")
                check(False, f"the box {self.name} did not boot again: {said}")
            self.leader = children.read_text().split()[:1]
            if not self.leader:
                return False
            self.leader = self.leader[0]
            state = self.run("systemctl", "is-system-running", may_fail=True).strip()
            # "degraded": something that a container cannot have; nothing of ours is enabled by then.
            return state in ("running", "degraded")

        until(f"the box {self.name} has booted", 60, booted, every=0.1)

    def reboot(self):
        self.run("systemctl", "reboot", may_fail=True)
        until(f"the box {self.name} goes down", 60, lambda: self.process.child.poll() is not None)
        self.boot()

    def _end(self):
        # The box's init first: with it, the kernel ends all that lives in the box. Ended by itself,
        # nspawn would leave them.
        if self.leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.leader), signal.SIGKILL)
        if self.process:
            self.process.kill()
        # What lived in it may need a moment to be gone.
        for flags in ([], ["--lazy"]):
            if subprocess.run(["umount", *flags, self.root], capture_output=True).returncode == 0:
                break

    def run_code(self, *words, stdin=None, seconds=60):
        """(exit code, stdout, stderr) of a command in it."""
        command = ["nsenter", "--target", self.leader, "--all", "--", "env", "-i"]
        command += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        command += ["DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER="]
        done = subprocess.run(
            [*command, *map(str, words)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return done.returncode, done.stdout, done.stderr

    def run(self, *words, stdin=None, may_fail=False, seconds=60):
        """What a command in it printed."""
        code, out, err = self.run_code(*words, stdin=stdin, seconds=seconds)
        said = f"in {self.name}: {' '.join(map(str, words))}: exit {code}\n{out}{err}"
        check(code == 0 or may_fail, said)
        return out

    def bring(self, file):
        """Copies a file into it; where it is there."""
        shutil.copy(file, self.root / "root")
        return f"/root/{pathlib.Path(file).name}"

    def write(self, path, text, mode="644"):
        """Writes a file in it, as its root would."""
        self.run("sh", "-c", f"umask 077; mkdir -p $(dirname {path}); cat >{path}", stdin=text)
        self.run("chmod", mode, path)

    def fact(self, unit, name):
        """A property of a unit, as systemd shows it."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def verify(self, *units):
        """systemd-analyze finds nothing in these units but the two keys that came with systemd 254."""
        files = [f"/usr/lib/systemd/system/{unit}" for unit in units]
        # The box has no man to ask for the pages that the units name.
        code, out, err = self.run_code("systemd-analyze", "verify", "--man=no", *files)
        version = int(self.run("systemctl", "--version").split()[1])
        said = set((out + err).splitlines())
        newer = re.compile(r"wormkeyd-(server|client)\.service:\d+: Unknown key(?: name)? '(RestartSteps|RestartMaxDelaySec)'")
        told = {line for line in said if newer.search(line)}
        same((code, said - told), (0, set()), f"systemd-analyze verify {units}")
        found = {newer.search(line).groups() for line in told}
        same(len(found), len(told), f"each is told of once: {told}")
        check(version < 254 or not told, f"systemd {version} knows them: {told}")

    def is_enabled(self, unit):
        return self.run("systemctl", "is-enabled", unit, may_fail=True).strip()

    def is_active(self, unit):
        return self.run("systemctl", "is-active", unit, may_fail=True).strip()

    def journal(self, unit):
        """What it logged since the box booted."""
        return self.run("journalctl", "--unit", unit, "--output", "cat", "--no-pager")


class Packages:
    """Packages of the programs that the beds run, and a later version of them."""

    def __init__(self, world, only="deb", version=None, folder="packages"):
        self.folder = world.folder / (f"{folder}-{version}" if version else folder)
        programs = pathlib.Path(world.wormkeyd).parent
        build = [REPOSITORY / "packaging/build", "--programs", programs, "--only", only]
        build += ["--out", self.folder, *(["--version", version] if version else [])]
        for name, package in (("objdump", "binutils"), ("strip", "binutils")):
            cache.program(name, package)
        cache.program("cargo", "rustup's toolchain")
        done = subprocess.run(list(map(str, build)), capture_output=True, text=True)
        check(done.returncode == 0, f"packaging/build: exit {done.returncode}\n{done.stderr}")
        self.package = next(self.folder.glob(f"*.{only}"))

    def later_deb(self, version):
        """The same as a later version, whose configuration file has changed, too."""
        tree = self.folder / "later"
        subprocess.run(["dpkg-deb", "-R", self.package, tree], check=True)
        control = tree / "DEBIAN" / "control"
        control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
        with open(tree / "etc/wormkey/client.toml", "a") as file:
            file.write("# Something that a later version says.\n")
        made = self.folder / f"wormkey_{version}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, made]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        with contextlib.suppress(OSError):
            shutil.rmtree(tree)
        return made
