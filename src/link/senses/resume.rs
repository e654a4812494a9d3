//! Notices that the machine has slept: the kernel cancels a timer of ours whenever the wall clock
//! jumps, which it does on waking, and the clock that counts sleep tells whether it was that. No D-Bus,
//! no privileges, no polling.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{
    ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags,
};
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;

use crate::engine::watch::Hint;

/// The timer's time, in seconds since 1970: the year 2255, so that it is only ever cancelled.
const NEVER: libc::time_t = 9_000_000_000;

/// The least sleep to speak of. Above what reading two clocks one after the other can be apart.
const NAP: Duration = Duration::from_millis(100);

/// Reads how long the machine has slept since it was started.
type ReadSlept = Box<dyn Fn() -> io::Result<Duration> + Send + Sync>;

/// A timer that the kernel cancels when the clock jumps.
pub(super) struct Clocks {
    timer: AsyncFd<Timer>,
    read: ReadSlept,
    slept: Duration,
}

/// The timer, as tokio wants it.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Clocks {
    /// Watches from now on.
    pub(super) fn watch() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(TimerClock::CLOCK_REALTIME, flags)?;
        arm(&timer)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that lie about their descriptor; this one owns it"
        )]
        let timer = AsyncFd::new(Timer(timer))?;
        Ok(Self {
            timer,
            read: Box::new(slept),
            slept: slept()?,
        })
    }

    /// Waits for the clock to jump, and tells why it did. Dropping the future loses nothing.
    pub(super) async fn jumped(&mut self) -> io::Result<Hint> {
        loop {
            let mut ready = self.timer.readable().await?;
            let read = nix::unistd::read(&ready.get_inner().0, &mut [0; 8]);
            ready.clear_ready();
            match read {
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(Errno::ECANCELED) | Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            arm(&self.timer.get_ref().0)?;
            return self.judge();
        }
    }

    fn judge(&mut self) -> io::Result<Hint> {
        let before = std::mem::replace(&mut self.slept, (self.read)()?);
        let slept = self.slept.saturating_sub(before);
        Ok(if slept >= NAP {
            Hint::Resumed { slept }
        } else {
            Hint::ClockStepped
        })
    }
}

fn arm(timer: &TimerFd) -> nix::Result<()> {
    timer.set(
        Expiration::OneShot(TimeSpec::new(NEVER, 0)),
        TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
    )
}

/// The clock that goes on in sleep less the one that stands still.
fn slept() -> io::Result<Duration> {
    let boot: Duration = clock_gettime(ClockId::CLOCK_BOOTTIME)?.into();
    let monotonic: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
    // Read in this order, a pause between the two makes it less, never more: no false alarm.
    Ok(boot.saturating_sub(monotonic))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn a_clock_that_jumps_is_a_sleep_only_if_sleep_was_counted() {
        let secs = Duration::from_secs;
        let reading = Arc::new(Mutex::new(secs(40)));
        let read = Arc::clone(&reading);
        let mut clocks = Clocks::watch().unwrap();
        clocks.read = Box::new(move || Ok(*read.lock().unwrap()));
        clocks.slept = secs(40);
        for (now, expected) in [
            (secs(40), Hint::ClockStepped),
            (secs(100), Hint::Resumed { slept: secs(60) }),
            (secs(100), Hint::ClockStepped),
            (secs(100) + NAP / 2, Hint::ClockStepped),
            (
                secs(29_000),
                Hint::Resumed {
                    slept: secs(28_900) - NAP / 2,
                },
            ),
            // A guest that was moved to another machine may count anew.
            (secs(3), Hint::ClockStepped),
        ] {
            *reading.lock().unwrap() = now;
            assert_eq!(clocks.judge().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn an_armed_timer_is_silent_while_nothing_jumps() {
        let mut clocks = Clocks::watch().unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(20), clocks.jumped()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }

    #[tokio::test]
    async fn a_timer_that_fires_is_armed_again_and_judged() {
        let mut clocks = Clocks::watch().unwrap();
        for _ in 0..2 {
            let soon = Expiration::OneShot(TimeSpec::new(0, 1));
            let timer = &clocks.timer.get_ref().0;
            timer.set(soon, TimerSetTimeFlags::empty()).unwrap();
            assert_eq!(clocks.jumped().await.unwrap(), Hint::ClockStepped);
            assert!(clocks.timer.get_ref().0.get().unwrap().is_some());
        }
    }
}
