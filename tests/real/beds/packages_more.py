"""The packages in ways that take no two machines: what linters say, rpm and dnf, a person's own client,
another architecture."""

import json
import os
import re
import subprocess

import cache
import origins
from boxes import Box, Packages
from harness import DOMAIN, MIB, REPOSITORY, check, same, until
from registry import bed
from beds.packages import UNITS, there

# One tree for all of these beds.
EXTRA = "rpm,libpam-systemd,dbus-user-session"
# Exposure by systemd-analyze, times ten: what was promised.
EXPOSURE = {"wormkeyd-server": 14, "wormkeyd-client": 13, "wormkeyd": 14}


def printed(command, env=None):
    """(exit code, all that a command printed)."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    return done.returncode, done.stdout


@bed("packages-lint")
def lint(world):
    """lintian, the units' exposure, the manual."""
    package = Packages(world).package
    lintian = cache.program("lintian", "lintian")
    words = ["--allow-root", "--fail-on", "warning,error", package]
    same(printed([lintian, *words]), (0, ""), "lintian")
    if world.long:
        again = Packages(world, folder="again").package
        same(again.read_bytes() == package.read_bytes(), True, "the package made again is the same")
    analyze = cache.program("systemd-analyze", "systemd")
    for unit, most in EXPOSURE.items():
        file = REPOSITORY / "systemd" / f"{unit}.service"
        words = ["security", "--offline=true", "--no-pager", f"--threshold={most}", file]
        code, said = printed([analyze, *words])
        check(code == 0, f"{unit} is more exposed than {most / 10}:\n{said}")
        world.say(said.strip().splitlines()[-1].lstrip("→ "))
    man, mandoc = cache.program("man", "man-db"), cache.program("mandoc", "mandoc")
    pages = sorted((REPOSITORY / "man").iterdir())
    check(len(pages) >= 5, f"only {len(pages)} manual pages")
    for page in pages:
        words = ["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page]
        done = subprocess.run([man, *words], capture_output=True, text=True, env={**world.env, "MANWIDTH": "80"})
        same((done.returncode, done.stderr), (0, ""), f"man of {page.name}")
        same(printed([mandoc, "-T", "lint", "-W", "error", page]), (0, ""), f"mandoc of {page.name}")


# --- rpm ------------------------------------------------------------------------------------------


@bed("packages-rpm", long=True)
def rpm(world):
    """rpm -i, -U and -e on a booted machine; what was edited stays."""
    made = Packages(world, "rpm").package
    later = Packages(world, "rpm", "0.1.1").package
    box = Box(world, "rpm", extra=EXTRA)
    box.run("rpm", "-i", "--nodeps", box.bring(made))
    for unit in UNITS:
        same(box.is_enabled(unit), "disabled", f"{unit} after installation")
    box.run("systemctl", "enable", "--now", "wormkeyd")
    same(box.is_active("wormkeyd-client"), "active", "the client")
    before = box.fact("wormkeyd-client", "MainPID")
    box.run("sh", "-c", "echo '# mine' >>/etc/wormkey/client.toml")
    box.run("rpm", "-U", "--nodeps", box.bring(later))
    same(box.run("rpm", "-q", "--qf", "%{VERSION}", "wormkey"), "0.1.1", "the version")
    same(box.is_active("wormkeyd-client"), "active", "the client after an update")
    check(box.fact("wormkeyd-client", "MainPID") != before, "the old program still runs")
    check("# mine" in box.run("cat", "/etc/wormkey/client.toml"), "the update took what was edited")
    box.reboot()
    same(box.is_active("wormkeyd-client"), "active", "the client after a reboot")
    box.run("rpm", "-e", "wormkey")
    same(box.is_active("wormkeyd-client"), "inactive", "the client after removal")
    wanted = "/etc/systemd/system/multi-user.target.wants/wormkeyd.service"
    for gone in ("/usr/bin/wormkeyd", "/run/wormkey", wanted):
        check(not there(box, gone), f"{gone} is there after removal")
    saved = box.run("cat", "/etc/wormkey/client.toml.rpmsave")
    check("# mine" in saved, "what was edited is not in .rpmsave")
    check(there(box, "/var/lib/wormkey/client.db"), "removal took the state")


# Stands for a distribution: what the package asks for, and nothing else.
STUB = """Name: stub
Version: 1
Release: 1
Summary: What a distribution would bring
License: MIT
BuildArch: x86_64
Provides: /bin/sh
Provides: systemd
Provides: libc.so.6(GLIBC_2.34)(64bit)
Provides: libgcc_s.so.1()(64bit)
%description
For a test.
%files
"""


@bed("packages-dnf", long=True)
def dnf(world):
    """dnf resolves what the package needs, and installs it into another root."""
    made = Packages(world, "rpm").package
    spec = world.folder / "stub.spec"
    spec.write_text(STUB)
    topdir = world.folder / "rpmbuild"
    define = ["--define", f"_topdir {topdir}"]
    code, said = printed([cache.program("rpmbuild", "rpm"), "-bb", "--quiet", *define, spec])
    check(code == 0, said)
    stub = next(topdir.rglob("stub*.rpm"))
    box = Box(world, "dnf", extra=EXTRA)
    command = [cache.program("dnf", "dnf"), f"--installroot={box.root}", "--releasever=9"]
    command += ["--setopt=reposdir=/nonexistent", f"--setopt=cachedir={world.folder}/dnf"]
    command += ["--nogpgcheck", "-y", "install"]
    code, said = printed([*command, made])
    check(code != 0 and "nothing provides" in said, f"without what it needs it was installed:\n{said}")
    code, said = printed([*command, stub, made])
    check(code == 0, said)
    check(there(box, "/usr/bin/wormkeyd"), said)
    same(box.run("id", "-un", "wormkey").strip(), "wormkey", "the user that the scriptlet makes")


# --- a person -------------------------------------------------------------------------------------


@bed("packages-user", long=True)
def person(world):
    """A person's own client under `systemctl --user`: their places, their files, after a reboot too."""
    package = Packages(world).package
    box = Box(world, "user", extra=EXTRA)
    box.run("dpkg", "-i", box.bring(package))
    box.run("useradd", "--create-home", "--shell", "/bin/sh", "ada")
    uid = box.run("id", "-u", "ada").strip()

    def as_ada(*words, may_fail=False):
        prefix = ["setpriv", "--reuid=ada", "--regid=ada", "--init-groups", "env", "HOME=/home/ada"]
        return box.run(*prefix, f"XDG_RUNTIME_DIR=/run/user/{uid}", *words, may_fail=may_fail)

    def active():
        said = as_ada("systemctl", "--user", "is-active", "wormkeyd-client", may_fail=True)
        return said.strip() == "active"

    box.run("loginctl", "enable-linger", "ada")
    until("a systemd of ada's", 20, lambda: there(box, f"/run/user/{uid}/systemd/private"))
    as_ada("systemctl", "--user", "enable", "--now", "wormkeyd-client")
    check(active(), "ada's client does not run")
    status = json.loads(as_ada("wormkeyctl", "--json", "status"))
    check(status, "ada's wormkeyctl finds ada's client")
    for place in ("/home/ada/.local/state/wormkey/client.db", f"/run/user/{uid}/wormkey/client.sock"):
        check(there(box, place), f"no {place}")
    mode = as_ada("stat", "-c", "%a", "/home/ada/.local/state/wormkey").strip()
    same(mode, "700", "the mode of ada's state")
    as_ada("systemctl", "--user", "reload", "wormkeyd-client")
    serves_their_home(box, as_ada)
    box.reboot()
    until("ada's client after a reboot", 30, active, every=0.2)
    same(box.is_active("wormkeyd-client"), "inactive", "the machine's own client")


def serves_their_home(box, as_ada):
    """A directory of ada's home is served by ada's client; the machine's own says whose it would be."""
    box.write("/etc/hosts", f"127.0.0.1 localhost {DOMAIN}\n")
    setup = ["wormkeyd", "setup", "server", "--domain", DOMAIN, "--yes", "--http", "off"]
    token = box.run(*setup)
    box.run("systemctl", "start", "wormkeyd-client")
    box.run("wormkeyctl", "join", "-", stdin=token)
    as_ada("mkdir", "-p", "/home/ada/site", "/home/ada/.config/wormkey")
    as_ada("sh", "-c", "echo '<p>ada' >/home/ada/site/index.html")
    code, out, err = box.run_code("wormkeyctl", "open", "file:/home/ada/site")
    check(code == 4 and "systemctl --user enable --now wormkeyd-client" in err, f"{code}: {out}{err}")
    settings = '[origins]\nfiles = ["/home/ada/site"]\n'
    as_ada("sh", "-c", f"echo '{settings}' >/home/ada/.config/wormkey/client.toml")
    as_ada("wormkeyctl", "reload")
    token = json.loads(box.run("wormkeyctl", "--json", "server", "invite", "--user", "ada"))["token"]
    as_ada("wormkeyctl", "join", token)
    answer = json.loads(as_ada("wormkeyctl", "--json", "open", "file:/home/ada/site"))
    resolve = f"{answer['slug']}.{DOMAIN}:443:127.0.0.1"
    same(box.run("curl", "-sk", "--resolve", resolve, answer["url"]), "<p>ada\n", "a visit to ada's home")
    box.run("systemctl", "stop", "wormkeyd-client")


# --- a backup -------------------------------------------------------------------------------------

NIGHT = "wormkeyctl server backup /var/backups/wormkey-$(date +%F).db"


def manual(section):
    """The commands of a section of wormkeyd(8)."""
    page = (REPOSITORY / "man/wormkeyd.8").read_text()
    section = page.split(f".SH {section}\n", 1)[1].split(".SH ", 1)[0]
    lines = re.findall(r"(?m)^\\fB    (.*)\\fR$", section)
    return [line.replace("\\-", "-").replace("\\(aq", "'") for line in lines]


@bed("packages-backup")
def backup(world):
    """A backup of root's, put back on a bare disk by the manual's own commands."""
    package = Packages(world).package
    box = Box(world, "backup")
    box.run("dpkg", "-i", box.bring(package))
    box.write("/etc/hosts", f"127.0.0.1 localhost {DOMAIN}\n")
    setup = ["wormkeyd", "setup", "server", "--domain", DOMAIN, "--yes", "--http", "off"]
    token = box.run(*setup)
    box.run("systemctl", "start", "wormkeyd-client")
    box.run("wormkeyctl", "join", "-", stdin=token)
    box.run("wormkeyctl", "open", "3000", "--name", "kept")
    night, *after = manual("BACKUP")
    same(night, NIGHT, "the command for every night")
    box.run("sh", "-c", night)
    file = box.run("sh", "-c", "ls /var/backups/wormkey-*.db").strip()
    same(box.run("stat", "-c", "%U %a", file).strip(), "root 600", "the backup")
    # The disk dies; the key was kept apart.
    box.run("systemctl", "stop", "wormkeyd-client", "wormkeyd-server")
    box.run("sh", "-c", "cp /var/lib/wormkey/server.key /root/server.key && rm -r /var/lib/wormkey/server.*")
    box.run("mv", "/var/lib/wormkey", "/root/client-s")
    restores = [line for line in after if " restore " in line]
    same(len(restores), 1, f"restores among {after}")
    for line in after:
        if line in restores:
            line = line.replace("/var/backups/wormkey-2030-01-31.db", file)
        box.run("sh", "-c", f"cd /root; {line}")
    same(box.is_active("wormkeyd-server"), "active", "the server from the backup")
    owners = box.run("sh", "-c", "stat -c '%U:%G %a' /var/lib/wormkey/server.db /var/lib/wormkey/server.key")
    same(owners.split("\n")[:-1], ["wormkey:wormkey 600"] * 2, "what was put back")
    slugs = [one["slug"] for one in json.loads(box.run("wormkeyctl", "--json", "server", "tunnels"))["tunnels"]]
    same(slugs, ["kept"], "the tunnels of the backup")
    # A link that leads elsewhere is not followed with root's rights.
    box.run("systemctl", "stop", "wormkeyd-server")
    box.run("sh", "-c", "ln -s /etc/shadow /var/lib/wormkey/server.restore; ln -sf /etc/passwd /var/lib/wormkey/server.lock")
    before = box.run("sh", "-c", "cat /etc/passwd /etc/shadow")
    code, _, err = box.run_code("wormkeyd", "server", "restore", file)
    check(code == 1 and "server.lock" in err, f"{code}: {err}")
    same(box.run("sh", "-c", "cat /etc/passwd /etc/shadow"), before, "root's files")


# --- another architecture -------------------------------------------------------------------------


def foreign_programs(world):
    """The folder of wormkeyd and wormkeyctl for arm64; built when packaging/build has left none."""
    target = REPOSITORY / "target/zig/aarch64-unknown-linux-gnu"
    for made in (target / "release", target / "debug"):
        if (made / "wormkeyd").exists() and (made / "wormkeyctl").exists():
            return made
    words = ["zigbuild", "--locked", "--bins", "--target-dir", REPOSITORY / "target/zig"]
    words += ["--target", "aarch64-unknown-linux-gnu.2.34"]
    path = f"{cache.ROOT}/tools/zig/bin:{os.environ['PATH']}"
    code, said = printed(["cargo", *words], env={**os.environ, "PATH": path})
    if "no such command" in said:
        raise cache.Unavailable("no cargo-zigbuild; `packaging/build arm64` installs it")
    check(code == 0, said)
    return target / "debug"


@bed("packages-arm64", long=True)
def arm64(world):
    """The main job of the daemons for arm64, by emulation: join, open, bodies both ways, restarts."""
    qemu = cache.program("qemu-aarch64-static", "qemu-user-static")
    programs = foreign_programs(world)
    libraries = cache.foreign("arm64", "libc6,libgcc-s1")
    for program in ("wormkeyd", "wormkeyctl"):
        wrapped = world.folder / program
        wrapped.write_text(f'#!/bin/sh\nexec {qemu} -L {libraries} {programs}/{program} "$@"\n')
        wrapped.chmod(0o755)
    world.wormkeyd, world.wormkeyctl = world.folder / "wormkeyd", world.folder / "wormkeyctl"
    with origins.plain() as origin:
        tunnel = world.open(origin.port, "--name", "foreign")
        same(world.curl(tunnel).status, 200, "a visit")
        answer = world.curl(tunnel, f"/bytes/{4 * MIB}", seconds=60)
        same(len(answer.body), 4 * MIB, "a large answer")
        for daemon in (world.server, world.first_client):
            daemon.process.kill()
            daemon.start()
            until("a visit", 60, lambda: world.curl(tunnel, seconds=15).status == 200)
    world.say(f"{printed(['file', '-b', programs / 'wormkeyd'])[1][:60].strip()}")
