"""From nothing to a tunnel, as a person sets it up: `setup server`, `join --start`, `import`, TAB."""

import contextlib
import dataclasses
import os
import pathlib
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
import tomllib

import cache
import origins
from harness import DOMAIN, REPOSITORY, Client, Server, Tunnel, check, free_port, same, until
from registry import bed

SAMPLES = REPOSITORY / "tests" / "real" / "samples"


def said(world, *words, stdin="", env=None, seconds=60):
    """(exit code, standard output, standard error) of a command."""
    done = subprocess.run(
        [str(word) for word in words],
        input=stdin,
        capture_output=True,
        text=True,
        env={**world.env, **(env or {})},
        timeout=seconds,
    )
    return done.returncode, done.stdout, done.stderr


@bed("setup-server")
def setup_server(world):
    """A bare folder becomes a working public tunnel by the commands that are printed."""
    began = time.monotonic()
    root, port = world.folder / "root", free_port()
    words = [world.wormkeyd, "setup", "server", "--domain", DOMAIN, "--root", root]
    words += ["--https", f"127.0.0.1:{port}", "--http", "off"]
    words += ["--cert", world.certificates.leaf, "--key", world.certificates.leaf_key]
    code, out, err = said(world, *words)
    same((code, out), (2, ""), f"without a yes: {err}")
    check(not root.exists(), "nothing is written before somebody says yes")
    code, out, err = said(world, *words, "--yes")
    same((code, out), (0, ""), err)
    line = re.search(r"^  (wormkeyd server .*)$", err, re.MULTILINE)
    check(line, f"it says what to start:\n{err}")
    # As printed, but for where the program is.
    world.spawn([world.wormkeyd, *line[1].split()[1:]], "server")
    admin = root / "run/wormkey/server.sock"
    until("the server's socket", 20, admin.exists)

    def token():
        code, out, err = said(world, *words, "--yes")
        return code == 0 and out.strip()

    invite = until("the first invite", 20, token, every=0.2)
    check(invite.startswith("wkj_") and "\n" not in invite, f"the token alone: {invite!r}")
    client = Client(world, "laptop").start()
    client.ctl("join", "-", stdin=invite + "\n")
    with origins.plain() as origin:
        tunnel = client.open(origin.port, "--name", "first")
        same(world.curl(tunnel).status, 200, "a visit")
    world.say(f"from a bare folder to a visit in {time.monotonic() - began:.1f} s")
    code, out, err = said(world, *words)
    same((code, out), (0, ""), f"once more, with a device: {err}")
    check("have joined already" in err, err)


@bed("join-start")
def join_start(world):
    """`join --start` has systemd start the client, joins, and does neither twice."""
    world.client()  # A server, and a first device.
    client = Client(world, "laptop")
    tools = world.folder / "tools"
    tools.mkdir()
    asked, pid = world.folder / "asked", world.folder / "pid"
    systemctl = tools / "systemctl"
    # Stands for systemd: knows the unit, and starts its daemon.
    systemctl.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >>{asked}\n'
        'case "$*" in\n'
        f"*--now*) setsid {world.wormkeyd} client --config {client.config} >/dev/null 2>&1 &\n"
        f"    echo $! >{pid} ;;\n"
        "esac\n"
    )
    systemctl.chmod(0o755)
    env = {"PATH": f"{tools}:{world.env['PATH']}"}
    words = [world.wormkeyctl, "--socket", client.socket, "join", "--start"]
    invite = world.server.invite() + "\n"
    token = world.folder / "token"
    token.write_text(invite)

    def end():
        if pid.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)

    world.undo.callback(end)
    code, out, err = said(world, *words, f"@{token}", env=env)
    same(code, 2, f"nobody said yes: {err}")
    check("--now" not in asked.read_text(), "nothing is started before somebody says yes")
    code, out, err = said(world, *words, "--yes", f"@{token}", env=env)
    same(code, 0, err)
    check(f"joined {DOMAIN}" in out, out)
    check("enable --now wormkeyd-client.service" in asked.read_text(), asked.read_text())
    code, out, err = said(world, *words, "--yes", f"@{token}", env=env)
    same((code, out.strip()), (0, f"joined {DOMAIN} already"), f"the same again: {err}")
    same(asked.read_text().count("--now"), 1, "times it was started")
    # Without a unit, and without a client, it says what to do by hand.
    end()
    systemctl.write_text("#!/bin/sh\nexit 1\n")
    until("the client is gone", 10, lambda: said(world, *words[:3], "status")[0] == 3)
    code, out, err = said(world, *words, "--yes", f"@{token}", env=env)
    same(code, 3, err)
    check("wormkeyd client" in err, err)


# Samples of the other tools, what becomes of each tunnel of theirs, and what is kept back.
IMPORTED = [
    ("ngrok.yml", ["my-site", "api-2", "private", "office"], ["login"]),
    ("ngrok-v3.yml", ["shop", "team"], ["guarded", "inner", "sometimes"]),
    ("frpc.toml", ["blog", "docs-2", "grafana", "narrow", "raw", "names", "passed"], []),
    ("config.yml", ["app", "admin-2"], ["staff"]),
]


@bed("import")
def imported(world):
    """ngrok's, frp's and cloudflared's samples: imported, opened, visited, with what guards them."""
    world.settings["server"] = {"listen": {"tcp_ports": "21050-21059"}}
    client = world.first_client
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(origins.plain())
        secured = stack.enter_context(origins.plain())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(world.certificates.leaf, world.certificates.leaf_key)
        secured.socket = context.wrap_socket(secured.socket, server_side=True)
        datagrams = stack.enter_context(echoing())
        for file, names, kept in IMPORTED:
            text = (SAMPLES / file).read_text()
            for at, port in ((r"1808[123]", origin.port), ("18443", secured.port), ("18053", datagrams)):
                text = re.sub(at, str(port), text)
            sample = world.folder / file
            sample.write_text(text)
            done = client.ctl("import", sample, "--write", "--config", client.config)
            same([one["name"] for one in done["tunnels"] if one["kept_back"]], kept, file)
            check(all(note["line"] > 0 for note in done["notes"]), done["notes"])
            again = client.ctl("import", sample, "--write", "--config", client.config)
            same(again["written"], done["written"], "the same again")
            client.ctl("reload")
            for name in names:
                def is_open():
                    code, out, _ = client.ctl_code("show", name)
                    return code == 0 and '"state":"open"' in out

                until(f"{name} of {file} is open", 30, is_open)
                shown = client.show(name)
                tunnel = Tunnel(shown["url"], world.certificates.ca, shown)
                visits(world, tunnel, name)
            for name in kept:
                same(client.ctl_code("show", name)[0], 5, f"{file}: {name} is kept back")
            secret_files(client, done["written"])
            pathlib.Path(done["written"]).unlink()
            client.ctl("reload")
        own = client.config.with_name("client.d") / "imported-frp.toml"
        own.write_text('[[tunnel]]\nname = "mine"\ntarget = "3000"\n')
        code, _, err = client.ctl_code(
            "import", SAMPLES / "frpc.toml", "--write", "--config", client.config
        )
        same(code, 6, f"somebody's own file is not replaced: {err}")
    bad = world.folder / "bad.yml"
    bad.write_text("tunnels:\n  web: [\n")
    code, _, err = client.ctl_code("import", bad)
    same(code, 78, err)
    check("line " in err, err)


@contextlib.contextmanager
def echoing():
    """A UDP service that says again what it is told; its port."""
    with socket.socket(type=socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))

        def answer():
            with contextlib.suppress(OSError):
                while (got := service.recvfrom(2048))[0]:
                    service.sendto(*got)

        threading.Thread(target=answer, daemon=True).start()
        yield service.getsockname()[1]
        with contextlib.suppress(OSError):
            service.shutdown(socket.SHUT_RDWR)


def visits(world, tunnel, name):
    """A visit, and what its guard does to others."""

    def status(path="/", *words):
        got = world.curl(tunnel, path, *words)
        return got.status, got.headers

    def asks_for(login):
        same(status()[0], 401, f"{name} without a password")
        same(status("/", "-u", "ada:wrong")[0], 401, f"{name} with another")
        same(status("/", "-u", login)[0], 200, f"{name} with its own")

    match name:
        case "private":
            asks_for("ada:correct horse")
        case "grafana":
            asks_for("admin:hunter2")
        case "team":
            same(status("/", "-u", "ada:correct horse")[0], 200, name)
            same(status("/", "-u", "ada:correct horse")[1]["x-robots-tag"], "noindex", name)
            seen = [status("/", "-u", "ada:correct horse")[0] for _ in range(4)]
            check(429 in seen, f"{name}: the fifth visit within a minute: {seen}")
        case "office":
            code, headers = status("/headers")
            same((code, headers["x-robots-tag"]), (200, "noindex"), name)
            # The sample lets this machine in, all but one of its addresses.
            same(status("/", "--interface", "127.0.0.9")[0], 403, f"{name} from a denied address")
        case "narrow":
            code, headers = status("/after/1")
            same((code, headers["x-robots-tag"]), (200, "noindex"), name)
            same(status("/headers")[0], 403, f"{name} elsewhere")
        case "admin-2":
            same(status("/public/x")[0], 200, f"{name} below its path")
            same(status("/")[0], 403, f"{name} elsewhere")
        case "raw":
            url = f"http://{tunnel.address}:{tunnel.port}/"
            code, out, err = said(world, cache.program("curl", "curl"), "-sS", url)
            same((code, out), (0, "hello from the origin\n"), err)
        case "names":
            with socket.socket(type=socket.SOCK_DGRAM) as visitor:
                visitor.settimeout(10)
                visitor.sendto(b"which name?", (tunnel.address, tunnel.port))
                same(visitor.recv(2048), b"which name?", name)
        case "passed":
            # The certificate is the service's, verified through the tunnel.
            tunnel = dataclasses.replace(tunnel, url=tunnel.url.replace("tls:", "https:"))
            same(world.curl(tunnel).body, b"hello from the origin\n", name)
        case _:
            got = world.curl(tunnel)
            same((got.status, got.body), (200, b"hello from the origin\n"), name)


def secret_files(client, written):
    """Secrets are in files for the daemon alone, and nowhere else."""
    folder = pathlib.Path(written).with_suffix(".secrets")
    for file in folder.iterdir() if folder.exists() else []:
        same(file.stat().st_mode & 0o777, 0o600, f"the mode of {file.name}")
        check(file.read_text().strip() not in pathlib.Path(written).read_text(), f"{file.name} is told")


class Terminal:
    """A shell that a person types into."""

    def __init__(self, world, env, *command):
        pid, self.fd = pty.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.execvpe(command[0], command, {**world.env, **env, "TERM": "dumb"})
            os._exit(127)
        self.pid = pid
        self.seen = ""
        world.undo.callback(self.end)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def types(self, text, expected, seconds=20):
        """Types, and waits until the terminal shows what is expected after that."""
        mark = len(self.seen)
        os.write(self.fd, text.encode())
        deadline = time.monotonic() + seconds
        while not re.search(expected, self.seen[mark:]):
            left = deadline - time.monotonic()
            check(left > 0, f"{text!r} shows no {expected!r}:\n{self.seen[mark:]}")
            if select.select([self.fd], [], [], max(left, 0))[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        return self.seen[mark:]


@bed("completions")
def completions(world):
    """bash, zsh and fish complete commands, flags, and the names of tunnels and devices."""
    bash = cache.program("bash", "bash")
    zsh, fish = cache.program("zsh", "zsh"), cache.program("fish", "fish")
    scripts = world.folder / "scripts"
    scripts.mkdir()
    same(said(world, world.wormkeyctl, "generate", "completions", scripts)[0], 0, "generate")
    programs = pathlib.Path(world.wormkeyctl).resolve().parent
    env = {"PATH": f"{programs}:{world.env['PATH']}", "PS1": "> ", "PS2": "", "PROMPT": "> "}
    client = world.first_client
    with origins.plain() as origin:
        world.open(origin.port, "--name", "zebra-crossing")
        world.open(origin.port, "--name", "other")
    device = world.server.ctl("devices")["devices"][0]["name"]
    at = f"wormkeyctl --socket {client.socket}"
    served = f"wormkeyctl --socket {world.server.socket} server"

    for name, command, first in [
        ("bash", [bash, "--norc", "--noprofile", "-i"], f". {scripts}/wormkeyctl.bash"),
        (
            "zsh",
            [zsh, "-f", "-i"],
            f"fpath=({scripts} $fpath); autoload -Uz compinit; compinit -u -D",
        ),
    ]:
        shell = Terminal(world, env, *command)
        shell.types(f"{first}; echo re''ady\n", "ready")
        for line, expected in [
            (f"{at} show ze\t", "zebra-crossing"),
            (f"{at} clos\t", r"clos.*e"),
            (f"{at} open 3000 --expi\t", "--expires"),
            (f"{at} set ze\t", "zebra-crossing"),
            (f"{served} close ze\t", "zebra-crossing"),
            (f"{served} revoke {device[:2]}\t", re.escape(device)),
        ]:
            shell.types(line, expected)
            # The line is thrown away.
            shell.types("\x15echo o''k\n", "ok")
        world.say(f"{name} completes at the first TAB")
    for line, expected in [
        (f"{at} show ", ["other", "zebra-crossing"]),
        (f"{at} show ze", ["zebra-crossing"]),
        (f"{at} logs ze", ["zebra-crossing"]),
        (f"{at} share ze", ["zebra-crossing"]),
        (f"{served} suspend ze", ["zebra-crossing"]),
        (f"{served} audit --subject ze", ["zebra-crossing"]),
        (f"{served} revoke ", [device]),
        (f"{at} open 3000 --expi", ["--expires"]),
    ]:
        script = f"source {scripts}/wormkeyctl.fish; complete -C '{line}'"
        code, out, err = said(world, fish, "--no-config", "-c", script, env=env)
        same(code, 0, err)
        values = sorted(row.split("\t")[0] for row in out.splitlines())
        values = [value for value in values if not value.startswith("-") or "-" in line[-6:]]
        same(values, expected, f"fish: {line}")
    # Without a daemon there is nothing to complete, and nothing to say.
    script = f"source {scripts}/wormkeyctl.fish; complete -C 'wormkeyctl --socket /none show ze'"
    code, out, err = said(world, fish, "--no-config", "-c", script, env=env)
    same((out, err), ("", ""), "without a daemon")


@bed("behind-nginx")
def behind_nginx(world):
    """The recipe of wormkey(7), with other addresses: visits and links come through nginx."""
    nginx = cache.program("nginx", "nginx")
    module = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        raise cache.Unavailable("no stream module; as root tests/run installs libnginx-mod-stream")
    world.advertised = "127.0.0.2"
    example = (REPOSITORY / "config-examples" / "server-nginx.toml").read_text()
    front = tomllib.loads(example)["listen"]["proxy_protocol_from"]
    world.settings["server"] = {"listen": {"proxy_protocol_from": front}}
    world.server = Server(world).start()
    page = (REPOSITORY / "man" / "wormkey.7").read_text()
    recipe = re.search(r"\.EX\n(    # nginx\.conf.*?)\.EE", page, re.DOTALL)[1].replace("\\e", "\\")
    port = world.server.port
    for written, here in [
        ("203.0.113.7:443", f"127.0.0.2:{port}"),
        ("127.0.0.1:443", f"127.0.0.1:{port}"),
        (r"tunnel\.example\.com", re.escape(DOMAIN)),
    ]:
        check(written in recipe, f"the recipe has no {written}:\n{recipe}")
        recipe = recipe.replace(written, here)
    place = world.folder / "nginx"
    place.mkdir()
    config = place / "nginx.conf"
    config.write_text(
        f"load_module {module};\nuser root;\ndaemon off;\npid {place}/pid;\n"
        f"error_log stderr;\nevents {{}}\n{recipe}"
    )
    world.spawn([nginx, "-p", place, "-c", config], "nginx")

    def listens():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.2", port), 1):
            return True

    until("nginx listens", 10, listens)
    client = world.client()
    link = client.status()["link"]
    same((link["address"], link["path"]), (f"127.0.0.2:{port}", "udp"), "the link's way")
    with origins.plain() as origin:
        shown = client.open(origin.port, "--name", "fronted").json
        tunnel = Tunnel(shown["url"], world.certificates.ca, shown, "127.0.0.2")
        for version in ("--http1.1", "--http2"):
            got = world.curl(tunnel, "/", version)
            same((got.status, got.body), (200, b"hello from the origin\n"), version)
