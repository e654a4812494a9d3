"""Runs the beds: real programs through real daemons. One line each: `ok NAME SECONDS`.

usage: run.py [--long] [--direct] [--list] [NAME…]
"""

import argparse
import importlib
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback

# The repository stays clean.
sys.dont_write_bytecode = True

import cache
import harness
import registry

BED_LIMIT = 240


def load():
    for file in sorted((cache.HERE / "beds").glob("[!_]*.py")):
        importlib.import_module(f"beds.{file.stem}")
    return registry.BEDS


def with_packages(chosen):
    """Starts this program again under the Python that has the packages, if a bed needs them.
    Answers the beds that can run, when that Python cannot be had."""
    if any("python" in bed.needs for bed in chosen):
        try:
            python = cache.python()
        except cache.Unavailable as reason:
            for bed in chosen:
                if "python" in bed.needs:
                    print(f"skip {bed.name}: {reason}", flush=True)
            return [bed for bed in chosen if "python" not in bed.needs]
        if pathlib.Path(sys.prefix) != python.parent.parent:
            sys.stdout.flush()
            os.execv(python, [str(python), __file__, *sys.argv[1:]])
    return chosen


def late(*_):
    raise harness.Failure(f"not done within {BED_LIMIT} s")


def daemon_logs(world):
    for process in world.processes:
        print(f"--- {process.name} (its last lines)")
        print("\n".join(process.text().splitlines()[-40:]))


def figures(world):
    for fact in world.said:
        print(f"   {fact}", flush=True)


def run(bed, args):
    """True unless it failed."""
    began = time.monotonic()
    folder = tempfile.mkdtemp(prefix="wk-")
    with harness.World(folder, direct=args.direct, long=args.long) as world:
        signal.alarm(BED_LIMIT * (4 if args.long else 1))
        try:
            bed.run(world)
        except cache.Unavailable as reason:
            print(f"skip {bed.name}: {reason}", flush=True)
            return True
        except Exception:
            signal.alarm(0)
            traceback.print_exc(file=sys.stdout)
            daemon_logs(world)
            print(f"FAIL {bed.name} {time.monotonic() - began:.1f}", flush=True)
            figures(world)
            return False
        finally:
            signal.alarm(0)
        print(f"ok {bed.name} {time.monotonic() - began:.1f}", flush=True)
        figures(world)
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true", help="with what takes long")
    parser.add_argument("--direct", action="store_true", help="the beds without the tunnel")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    beds = load()
    if args.list:
        print("\n".join(beds))
        return 0
    unknown = [name for name in args.names if name not in beds]
    if unknown:
        print(f"no bed {', '.join(unknown)}; there are: {' '.join(beds)}", file=sys.stderr)
        return 2
    asked = [beds[name] for name in args.names or beds]
    chosen = with_packages([bed for bed in asked if not bed.left_out(args)])
    for bed in asked:
        if reason := bed.left_out(args):
            print(f"skip {bed.name}: {reason}", flush=True)
    signal.signal(signal.SIGALRM, late)
    # So that the worlds' `finally` run.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    failed = [bed for bed in chosen if not run(bed, args)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
