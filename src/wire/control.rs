//! Messages of the control stream: `{ varint length, CBOR }` both ways. Every one is a CBOR map with
//! integer keys inside an array `[number, [map]]`; unknown keys and unknown messages are skipped. The list
//! of all is here, with those about tunnels and the link itself; [`super::hello`], [`super::shares`] and
//! [`super::domains`] have the others.

use bytes::{Buf, Bytes, BytesMut};
use minicbor::{Decode, Decoder, Encode};

use super::domains::{DomainNews, SetDomains};
use super::hello::{Enroll, Enrolled, Hello, Welcome};
use super::shares::{Share, ShareList, Shared, Shares, Unshare};
use super::{CONTROL_MAX, Standing, WireError, get_varint, put_varint};
use crate::names::TunnelId;

/// A message of the control stream.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Control {
    /// Client, first: who it is and what it speaks.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Server: the link is up.
    #[n(1)]
    Welcome(#[n(0)] Welcome),
    /// Client, after a Hello with `enrolling`: uses a join token.
    #[n(2)]
    Enroll(#[n(0)] Enroll),
    /// Server: the device is known from now on; a Welcome follows.
    #[n(3)]
    Enrolled(#[n(0)] Enrolled),
    /// Client: open this tunnel, or take it back.
    #[n(4)]
    Bind(#[n(0)] Bind),
    /// Server: it is open, on disk.
    #[n(5)]
    Bound(#[n(0)] Bound),
    /// Client: end this tunnel.
    #[n(6)]
    Close(#[n(0)] Close),
    /// Server: it is ended, on disk.
    #[n(7)]
    Closed(#[n(0)] Closed),
    /// Server: a tunnel changed without being asked by this client.
    #[n(8)]
    Update(#[n(0)] Update),
    /// Client: the machine is about to sleep.
    #[n(9)]
    Sleeping,
    /// Client: it woke up.
    #[n(10)]
    Awake,
    /// Either: answer with a Pong of the same number.
    #[n(11)]
    Ping(#[n(0)] Ping),
    /// Either: the answer.
    #[n(12)]
    Pong(#[n(0)] Ping),
    /// Server: reconnect, at a time of your choice within the spread.
    #[n(13)]
    GoAway(#[n(0)] GoAway),
    /// Either: what was asked cannot be done; without a request number the link ends.
    #[n(14)]
    Error(#[n(0)] Fault),
    /// Client: give up this device's tunnels and its enrolment.
    #[n(15)]
    Leave(#[n(0)] Close),
    /// Client: what time is it there? Server: this. A server that skips it tells no time.
    #[n(20)]
    Time(#[n(0)] TimeNote),
    /// Client: change this tunnel's policy; answered with a Bound.
    #[n(16)]
    Set(#[n(0)] Set),
    /// Client: make a share link.
    #[n(17)]
    Share(#[n(0)] Share),
    /// Server: it works, on disk.
    #[n(18)]
    Shared(#[n(0)] Shared),
    /// Client: which share links of a tunnel are there?
    #[n(21)]
    Shares(#[n(0)] Shares),
    /// Server: these.
    #[n(22)]
    ShareList(#[n(0)] ShareList),
    /// Client: withdraw a share link; answered with a Closed.
    #[n(23)]
    Unshare(#[n(0)] Unshare),
    /// Client: these own domains shall lead to a tunnel; answered with a Bound.
    #[n(28)]
    SetDomains(#[n(0)] SetDomains),
    /// Server: how the own domains of a tunnel stand.
    #[n(29)]
    DomainNews(#[n(0)] DomainNews),
}

/// Opens a tunnel or takes it back; harmless to send twice.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Bind {
    /// Ties the answer to the question; the client counts.
    #[n(0)]
    pub request: u64,
    /// The tunnel, named by the client.
    #[n(1)]
    pub tunnel: TunnelId,
    /// The slug wished for; absent = any.
    #[n(2)]
    pub name: Option<String>,
    /// `http`, `tcp`, `tls`, `udp`.
    #[n(3)]
    pub kind: String,
    /// When it ends, unix milliseconds; absent = never.
    #[n(4)]
    pub expires_at: Option<i64>,
    /// Milliseconds without a visit until it closes; absent = the server's default, `u64::MAX` = never.
    #[n(5)]
    pub idle_ms: Option<u64>,
    /// Milliseconds that visits wait for an absent link; absent = the server's default.
    #[n(6)]
    pub hold_ms: Option<u64>,
    /// Whether it stands in the client's settings, rather than being asked for by hand.
    #[n(7)]
    pub declared: bool,
    /// Labels, for people.
    #[n(8)]
    pub labels: Vec<(String, String)>,
    /// The public port wished for (tcp, udp).
    #[n(9)]
    pub public_port: Option<u16>,
    /// How long it shall live from its first opening, milliseconds: then the server's clock says when it
    /// ends, and `expires_at` is only for servers that do not read this.
    #[n(20)]
    pub expires_in_ms: Option<u64>,
    /// What it lets through, as the JSON text of a policy; absent = everything. Only to a server with
    /// [`Capabilities::POLICY`]: another one would open the tunnel to everybody.
    #[n(16)]
    pub policy: Option<String>,
    /// The own domains that shall lead to it: all of them; absent = whatever does. Only to a server with
    /// [`Capabilities::DOMAINS`].
    #[n(28)]
    pub domains: Option<Vec<String>>,
}

/// Changes a tunnel's policy, or parts of it, or its life.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Set {
    /// Ties the answer to the question.
    #[n(0)]
    pub request: u64,
    /// The tunnel.
    #[n(1)]
    pub tunnel: TunnelId,
    /// The JSON text of a policy; empty, which older servers refuse, when the policy stays.
    #[n(2)]
    pub policy: String,
    /// The parts that are to be as they stand there (`auth`, `limits`…); empty = all.
    #[n(3)]
    pub parts: Vec<String>,
    /// What is to be of its life; only for servers with [`Capabilities::LIFE`].
    #[n(4)]
    pub life: Option<Life>,
}

/// A change of a tunnel's life; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Life {
    /// Milliseconds from now, by the server's clock; `u64::MAX` = never.
    #[n(0)]
    pub expires_in_ms: Option<u64>,
    /// Milliseconds without a visit; `u64::MAX` = never.
    #[n(1)]
    pub idle_ms: Option<u64>,
    /// Milliseconds.
    #[n(2)]
    pub hold_ms: Option<u64>,
    /// All of them.
    #[n(3)]
    pub labels: Option<Vec<(String, String)>>,
}

/// A tunnel is open.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Bound {
    /// Of the Bind.
    #[n(0)]
    pub request: u64,
    /// The tunnel.
    #[n(1)]
    pub tunnel: TunnelId,
    /// Its name.
    #[n(2)]
    pub slug: String,
    /// Its public address.
    #[n(3)]
    pub url: String,
    /// When it ends, as the server keeps it; absent = never.
    #[n(4)]
    pub expires_at: Option<i64>,
    /// When it was first opened.
    #[n(5)]
    pub created_at: i64,
    /// What is in force; `u64::MAX` = never.
    #[n(6)]
    pub idle_ms: u64,
    /// What is in force.
    #[n(7)]
    pub hold_ms: u64,
    /// How its clocks stand.
    #[n(20)]
    pub standing: Option<Standing>,
    /// Its public port (tcp, udp).
    #[n(8)]
    pub public_port: Option<u16>,
    /// The policy in force, as its JSON text; absent = an older server's, or an empty one.
    #[n(16)]
    pub policy: Option<String>,
}

/// Ends a tunnel (in a Leave: all of them; the id is ignored).
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Close {
    /// Ties the answer to the question.
    #[n(0)]
    pub request: u64,
    /// The tunnel.
    #[n(1)]
    pub tunnel: TunnelId,
}

/// A tunnel is ended.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Closed {
    /// Of the Close or Leave.
    #[n(0)]
    pub request: u64,
}

/// A tunnel changed by itself or by the operator.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Update {
    /// The tunnel.
    #[n(0)]
    pub tunnel: TunnelId,
    /// What it is now: `expired`, `closed`, `suspended`, `open`; others are a newer server's.
    #[n(1)]
    pub state: String,
    /// Why, as a number of the table of codes.
    #[n(2)]
    pub code: u32,
    /// How its clocks stand, with `open`.
    #[n(20)]
    pub standing: Option<Standing>,
}

/// A number to give back.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Ping {
    /// Any number.
    #[n(0)]
    pub nonce: u64,
}

/// A question for the wall clock, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TimeNote {
    /// Ties the answer to the question.
    #[n(0)]
    pub nonce: u64,
    /// Unix milliseconds; absent in a question.
    #[n(1)]
    pub at: Option<i64>,
}

/// Reconnect soon.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct GoAway {
    /// Not before this many milliseconds from now.
    #[n(0)]
    pub after_ms: u64,
    /// Somewhere within this many milliseconds after that.
    #[n(1)]
    pub spread_ms: u64,
    /// Why, as a number of the table of codes.
    #[n(2)]
    pub code: u32,
}

/// Something cannot be done.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Fault {
    /// The request it answers; absent = the link itself.
    #[n(0)]
    pub request: Option<u64>,
    /// A number of the table of codes.
    #[n(1)]
    pub code: u32,
    /// One sentence for the person who asked.
    #[n(2)]
    pub detail: String,
}

impl Bind {
    /// `idle_ms` that means never.
    pub const NEVER: u64 = u64::MAX;
}

/// A message with its length in front.
pub fn encode_control(message: &Control) -> Bytes {
    // Writing to a Vec cannot fail.
    let cbor = minicbor::to_vec(message).unwrap_or_default();
    let mut out = BytesMut::with_capacity(cbor.len() + 4);
    put_varint(&mut out, cbor.len() as u64);
    out.extend_from_slice(&cbor);
    out.freeze()
}

/// Reads messages from chunks as they arrive; holds at most one message.
#[derive(Debug, Default)]
pub struct ControlDecoder {
    buffer: BytesMut,
}

impl ControlDecoder {
    /// A decoder at the start of the payload.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes that arrived.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next message this version knows; `None` until more bytes are pushed.
    pub fn next_message(&mut self) -> Result<Option<Control>, WireError> {
        loop {
            let Some((length, prefix)) = get_varint(&self.buffer) else {
                return Ok(None);
            };
            let size = usize::try_from(length)
                .ok()
                .filter(|n| *n <= CONTROL_MAX)
                .ok_or(WireError::TooLong {
                    what: "a control message",
                    length,
                    max: CONTROL_MAX,
                })?;
            let Some(cbor) = self.buffer.get(prefix..prefix + size) else {
                return Ok(None);
            };
            let message = decode_known(cbor)?;
            self.buffer.advance(prefix + size);
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Whether the stream may end here.
    pub fn at_border(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// A known message, or `None` for one of a newer peer.
fn decode_known(cbor: &[u8]) -> Result<Option<Control>, WireError> {
    let malformed = |e| WireError::malformed("control message", e);
    match minicbor::decode::<Control>(cbor) {
        Ok(message) => Ok(Some(message)),
        Err(e) if e.is_unknown_variant() => {
            // Whatever it is, it must at least be CBOR of the right shape.
            let mut d = Decoder::new(cbor);
            d.skip().map_err(malformed)?;
            Ok(None)
        }
        Err(e) => Err(malformed(e)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Capabilities;

    fn hello() -> Control {
        Control::Hello(Hello {
            versions: vec![1],
            capabilities: Capabilities::OURS,
            software: "wormkeyd 0.1.0".into(),
            device_name: "laptop".into(),
            enrolling: false,
        })
    }

    #[test]
    fn messages_survive_any_cut() {
        let messages = [hello(), Control::Sleeping, Control::Ping(Ping { nonce: 7 })];
        let wire: Vec<u8> = messages
            .iter()
            .flat_map(|m| encode_control(m).to_vec())
            .collect();
        for cut in 1..wire.len() {
            let mut decoder = ControlDecoder::new();
            let mut got = Vec::new();
            for chunk in wire.chunks(cut) {
                decoder.push(chunk);
                while let Some(message) = decoder.next_message().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages, "cut at {cut}");
            assert!(decoder.at_border());
        }
    }

    #[test]
    fn a_message_of_a_newer_peer_is_skipped() {
        let mut decoder = ControlDecoder::new();
        // [200, [{0: 1}]]
        let unknown = [0x82, 0x18, 200, 0x81, 0xa1, 0, 1];
        decoder.push(&[unknown.len() as u8]);
        decoder.push(&unknown);
        decoder.push(&encode_control(&Control::Awake));
        assert_eq!(decoder.next_message(), Ok(Some(Control::Awake)));
    }

    #[test]
    fn news_of_as_many_domains_as_a_tunnel_may_have_fit_into_a_message() {
        let note = crate::wire::DomainNote {
            domain: "d".repeat(253),
            state: "pending".into(),
            since: i64::MAX,
            missing_since: Some(i64::MAX),
            looked_at: Some(i64::MAX),
            said: Some("x".repeat(300)),
            certificate: Some("x".repeat(300)),
        };
        let news = Control::DomainNews(DomainNews {
            tunnel: TunnelId::random(),
            proof: "wormkey=".to_owned() + &"x".repeat(32),
            domains: vec![note; 64],
        });
        let mut decoder = ControlDecoder::new();
        decoder.push(&encode_control(&news));
        assert_eq!(decoder.next_message(), Ok(Some(news)));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_arrives() {
        let mut out = BytesMut::new();
        put_varint(&mut out, CONTROL_MAX as u64 + 1);
        let mut decoder = ControlDecoder::new();
        decoder.push(&out);
        assert!(matches!(
            decoder.next_message(),
            Err(WireError::TooLong { .. })
        ));
    }

    /// What the first release sent and read of a Bind.
    #[derive(Encode, Decode)]
    #[cbor(map)]
    struct OldBind {
        #[n(0)]
        request: u64,
        #[n(1)]
        tunnel: TunnelId,
        #[n(3)]
        kind: String,
        #[n(4)]
        expires_at: Option<i64>,
        #[n(7)]
        declared: bool,
        #[n(8)]
        labels: Vec<(String, String)>,
    }

    #[test]
    fn a_bind_of_the_first_release_is_read_and_it_reads_ours() {
        let old = OldBind {
            request: 1,
            tunnel: TunnelId::random(),
            kind: "http".into(),
            expires_at: Some(7),
            declared: false,
            labels: Vec::new(),
        };
        let ours: Bind = minicbor::decode(&minicbor::to_vec(&old).unwrap()).unwrap();
        assert_eq!((ours.expires_at, ours.expires_in_ms), (Some(7), None));
        assert_eq!(ours.domains, None, "whatever domains there are stay");
        let ours = Bind {
            expires_in_ms: Some(60_000),
            domains: Some(vec!["app.example.org".into()]),
            ..ours
        };
        let read: OldBind = minicbor::decode(&minicbor::to_vec(&ours).unwrap()).unwrap();
        assert_eq!((read.request, read.expires_at), (1, Some(7)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut decoder = ControlDecoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message() {}
        }
    }
}
