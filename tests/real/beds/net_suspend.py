"""A client's machine that is suspended to memory and woken: the link is the same, and goes on."""

import threading
import time

import origins
from guest import HOST, Guest
from harness import Server, check, limit, same
from registry import bed
from visits import Echo, echo_origin


@bed("suspend", "python", long=True)
def suspend(world):
    world.advertised = HOST
    world.settings["server"] = {"link": None}
    world.server = Server(world).start()
    with origins.plain() as plain, echo_origin() as echoing:
        guest = Guest(world)
        guest.ctl("join", world.server.invite())
        tunnel, echoed = guest.open(plain.port), guest.open(echoing)
        same(world.curl(tunnel).status, 200, "a visit before")
        echo = Echo(echoed, pause=0.1).start()
        echo.next_after(0, 20)
        slow = []
        for seconds in (10, 60):
            took = sleep(world, guest, tunnel, echo, seconds)
            if took > limit(1):
                slow.append(f"{took:.1f} s after {seconds} s asleep")
        check(not slow, f"the first new byte came only {', '.join(slow)}")
        echo.finish(30)


def sleep(world, guest, tunnel, echo, seconds):
    link = guest.ctl("status")["link"]["generation"]
    before = guest.clocks()
    with guest.asleep():
        time.sleep(0.5)
        quiet = echo.arrivals[-1]
        time.sleep(seconds - 4)
        same(echo.arrivals[-1], quiet, "nothing comes from a machine that sleeps")
        got = []
        visitor = threading.Thread(target=lambda: got.append(world.curl(tunnel, seconds=30)))
        visitor.start()
        time.sleep(3.5)
    woken = time.monotonic()
    took = echo.next_after(woken, 60)
    visitor.join()
    after = guest.clocks()
    slept = (after[1] - before[1]) - (after[0] - before[0])
    check(abs(slept - seconds) < 3, f"its monotonic clock stood still for {slept:.1f} s")
    world.say(
        f"{seconds} s of sleep ({slept:.1f} by its clocks): the websocket goes on {took:.2f} s after"
        f" waking, a visit that waited got {got[0].status}"
    )
    echo.sound()
    same(guest.ctl("status")["link"]["generation"], link, "the link")
    # Silent for longer than three keep-alives and the hold, visitors are told so at once.
    expected = 200 if seconds < 20 else 502
    same(got[0].status, expected, "a visit that came 3.5 s before it woke")
    same(world.curl(tunnel).status, 200, "a visit afterwards")
    return took
