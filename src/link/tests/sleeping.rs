//! A laptop that sleeps: its clocks stand still, its tasks do nothing, its socket hears nothing, while
//! the server's time goes on.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Instant as StdInstant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::roaming::{PROMPT, eat, feed, stream, until_more};
use super::*;
use crate::tasks::Tasks;

/// A machine that can be put to sleep. QUIC runs on its clock.
#[derive(Debug, Clone, Default)]
struct Machine(Arc<Mutex<Nights>>);

#[derive(Debug, Default)]
struct Nights {
    slept: Duration,
    asleep_since: Option<Instant>,
    /// Who waits for a timer, and must look again after waking.
    waiting: Vec<Waker>,
}

impl Machine {
    fn fall_asleep(&self) {
        self.0.lock().unwrap().asleep_since = Some(Instant::now());
    }

    fn wake_up(&self) {
        let mut nights = self.0.lock().unwrap();
        let since = nights.asleep_since.take().expect("it slept");
        nights.slept += since.elapsed();
        nights.waiting.drain(..).for_each(Waker::wake);
    }

    fn slept(&self) -> Duration {
        self.0.lock().unwrap().slept
    }

    /// Whether it is asleep; if so, the task is woken with it.
    fn is_asleep(&self, cx: &Context<'_>) -> bool {
        let mut nights = self.0.lock().unwrap();
        if nights.asleep_since.is_some() {
            nights.waiting.push(cx.waker().clone());
        }
        nights.asleep_since.is_some()
    }
}

impl Runtime for Machine {
    fn new_timer(&self, at: StdInstant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Alarm {
            machine: self.clone(),
            at,
            timer: Box::pin(sleep_until(Instant::now())),
        })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        quinn::TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> StdInstant {
        let nights = self.0.lock().unwrap();
        let now = nights.asleep_since.unwrap_or_else(Instant::now);
        (now - nights.slept).into_std()
    }
}

/// A timer of the machine's clock.
#[derive(Debug)]
struct Alarm {
    machine: Machine,
    at: StdInstant,
    timer: Pin<Box<Sleep>>,
}

impl AsyncTimer for Alarm {
    fn reset(mut self: Pin<&mut Self>, at: StdInstant) {
        self.at = at;
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.machine.is_asleep(cx) {
            return Poll::Pending;
        }
        let due = Instant::from_std(self.at) + self.machine.slept();
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        // After a sleep the time is another, and nobody but us knows.
        self.machine
            .0
            .lock()
            .unwrap()
            .waiting
            .push(cx.waker().clone());
        Future::poll(self.timer.as_mut(), cx)
    }
}

/// How long after waking the first new bytes arrive at the reader.
async fn night(download: bool, length: Duration) -> Duration {
    let world = World::new();
    let machine = Machine::default();
    let network = world.network.clone();
    let sockets: MakeSocket = Arc::new(move |_| Ok(network.client_socket()));
    let identity = Identity::ephemeral().unwrap();
    let runtime = Arc::new(machine.clone());
    let dialer = Dialer::from(sockets, runtime, &identity, &world.settings).unwrap();
    let ends = world.link_by(&dialer).await;
    let (mut server, mut client) = stream(&ends).await;
    let tasks = Tasks::new();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let stop = tasks.stopped();
    tasks.spawn("transfer", async move {
        let (from, to) = if download {
            (&mut server, &mut client)
        } else {
            (&mut client, &mut server)
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = feed(&mut from.0, usize::MAX / 2) => {}
            end = eat(&mut to.1, &counting) => panic!("it has no end: {end:?}"),
        }
    });
    sleep(Duration::from_millis(70)).await;
    world.network.set_down(true);
    machine.fall_asleep();
    let sent = ends.client.stats().sent_packets;
    sleep(length).await;
    // Asleep it did nothing of its own; what the application had queued may have gone nowhere.
    let idle = ends.client.stats().sent_packets - sent;
    assert!(idle <= 4, "{idle} packets in its sleep");
    machine.wake_up();
    world.network.set_down(false);
    ends.client.rebind().unwrap();
    let took = until_more(&count, secs(3600)).await;
    tasks.shutdown(secs(5)).await;
    for link in [&ends.client, &ends.server] {
        assert!(timeout(secs(1), link.closed()).await.is_err());
    }
    // To the machine the night was no time at all.
    let stall = ends.client.stats().longest_stall;
    assert!(stall < secs(5), "{stall:?}");
    took
}

#[tokio::test(start_paused = true)]
async fn a_link_and_its_transfers_survive_a_night() {
    for length in [60, 3600, 8 * 3600] {
        for download in [true, false] {
            let took = night(download, secs(length)).await;
            println!("slept {length} s, download {download}: {took:?}");
            assert!(
                took <= PROMPT,
                "slept {length} s, download {download}: {took:?}"
            );
        }
    }
}
