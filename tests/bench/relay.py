#!/usr/bin/env python3
"""A long, lossy wire between two network namespaces: every packet takes its time, and some are lost.

usage: relay.py PID PID DELAY_MS LOSS_PERCENT. It makes a TUN device `far` in the namespace of each
process and carries packets between them until it is ended. In user space, because not every kernel has
netem.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import sys
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
# Packets under way in all: a second of a gigabit. What comes then is lost, as in a router.
ROOM = 100_000


def device(pid):
    with open(f"/proc/{pid}/ns/net") as space:
        if _LIBC.setns(space.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"far", IFF_TUN | IFF_NO_PI))
    return tun


def main(one, other, delay, loss):
    ends = [device(one), device(other)]
    across = {ends[0]: ends[1], ends[1]: ends[0]}
    print("carries", flush=True)
    chance, numbers, way = random.Random(1), itertools.count(), []
    while True:
        now = time.monotonic()
        while way and way[0][0] <= now:
            _, _, to, packet = heapq.heappop(way)
            try:
                os.write(to, packet)
            except OSError:
                pass  # The device is down, or has no room: lost.
        wait = max(0.0, way[0][0] - now) if way else None
        for end in select.select(ends, [], [], wait)[0]:
            carried(end, across[end], way, numbers, delay, loss, chance)


def carried(end, to, way, numbers, delay, loss, chance):
    for _ in range(64):
        try:
            packet = os.read(end, 65536)
        except OSError:
            return
        if chance.random() >= loss and len(way) < ROOM:
            heapq.heappush(way, (time.monotonic() + delay, next(numbers), to, packet))


if __name__ == "__main__":
    first, second, milliseconds, percent = sys.argv[1:]
    main(int(first), int(second), float(milliseconds) / 1000, float(percent) / 100)
