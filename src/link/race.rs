//! Several addresses tried side by side (RFC 8305): the next is started when the last has failed or
//! is slow, and the first that succeeds wins.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

/// How long an address may stay silent until the next is tried beside it (RFC 8305's advice).
const STAGGER: Duration = Duration::from_millis(250);

/// A name with more addresses than this is somebody's mistake, or malice.
pub(super) const ADDRESSES: usize = 8;

/// One try.
pub(super) type Attempt<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// IPv6 and IPv4 by turns, IPv6 first; each once, and not too many.
pub(super) fn by_turns(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut six = found.iter().filter(|a| a.is_ipv6());
    let mut four = found.iter().filter(|a| a.is_ipv4());
    let mut out: Vec<SocketAddr> = Vec::new();
    while out.len() < ADDRESSES {
        let turn: Vec<_> = six.next().into_iter().chain(four.next()).collect();
        if turn.is_empty() {
            break;
        }
        for addr in turn {
            if !out.contains(addr) {
                out.push(*addr);
            }
        }
    }
    out.truncate(ADDRESSES);
    out
}

/// Starts the attempts one after the other; gives the first that succeeds, or the failure that
/// tells most, beginning with `failure`. The losers are dropped, which ends them.
pub(super) async fn race<T, E>(
    attempts: Vec<Attempt<T, E>>,
    mut failure: E,
    telling: fn(&E) -> u8,
) -> Result<T, E> {
    let mut waiting = attempts.into_iter();
    let mut running: Vec<Attempt<T, E>> = Vec::new();
    loop {
        if let Some(next) = waiting.next() {
            running.push(next);
        } else if running.is_empty() {
            return Err(failure);
        }
        let patience = sleep(STAGGER);
        let mut patience = pin!(patience);
        let more = waiting.len() > 0;
        let outcome = poll_fn(|cx| {
            for at in 0..running.len() {
                if let Poll::Ready(outcome) = running[at].as_mut().poll(cx) {
                    drop(running.swap_remove(at));
                    return Poll::Ready(Some(outcome));
                }
            }
            if more && patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        match outcome {
            Some(Ok(winner)) => return Ok(winner),
            Some(Err(error)) if telling(&error) >= telling(&failure) => failure = error,
            Some(Err(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns_and_are_bounded() {
        let six = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 443));
        let four = |n: u8| SocketAddr::from(([192, 0, 2, n], 443));
        assert_eq!(
            by_turns(&[four(1), four(2), four(1), six(1), six(2), six(3)]),
            [six(1), four(1), six(2), four(2), six(3)]
        );
        let many: Vec<_> = (0..100).map(four).chain((0..100).map(six)).collect();
        assert_eq!(by_turns(&many).len(), ADDRESSES);
    }
}
