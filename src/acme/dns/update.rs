//! Dynamic updates of a zone (RFC 2136), signed, over TCP: adds a TXT record and takes it away again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tsig::{Key, KeyError, SignatureError};
use crate::dns::{
    CLASS_IN, CLASS_NONE, Header, Name, OPCODE_UPDATE, Reader, TYPE_SOA, TYPE_TXT, put_record, txt,
};
use crate::times::Clock;

/// For one update, from the connection to the answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// Nobody is to remember a proof for long.
const TTL: u32 = 60;

/// Where and how to change a zone.
pub(in crate::acme) struct Updater {
    /// The primary server, `host:port`.
    pub(in crate::acme) server: String,
    pub(in crate::acme) zone: Name,
    /// The file of the key; read each time, so that one that is put right is taken at once.
    pub(in crate::acme) key: PathBuf,
}

/// Why a zone was not changed.
#[derive(Debug, thiserror::Error)]
pub(in crate::acme) enum UpdateError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot reach the name server {server}")]
    Reach {
        server: String,
        #[source]
        source: io::Error,
    },
    #[error("the name server {server} did not answer within {} s", DEADLINE.as_secs())]
    Late { server: String },
    #[error("the name server {server} answered nonsense")]
    Nonsense { server: String },
    #[error("the name server refused the update: {}", code_name(*.code))]
    Refused { code: u16 },
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// The codes an update can be refused with, and what to do.
const fn code_name(code: u16) -> &'static str {
    match code {
        1 => "FORMERR",
        2 => "SERVFAIL; its log tells why, often a zone file it cannot write",
        4 => "NOTIMP; it takes no dynamic updates",
        5 => "REFUSED; allow updates of this zone for the key",
        9 => "NOTAUTH; it is not the zone's primary, or does not know the key: set acme.dns.zone",
        10 => "NOTZONE; the name is not in this zone: set acme.dns.zone",
        _ => "an unusual code",
    }
}

/// What is done to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

impl Updater {
    pub(super) async fn change(
        &self,
        change: Change,
        name: &Name,
        value: &str,
    ) -> Result<(), UpdateError> {
        let mut id = [0; 2];
        // A number that repeats is no harm: one connection has one question.
        let _ = aws_lc_rs::rand::fill(&mut id);
        let id = u16::from_be_bytes(id);
        let mut message = self.message(id, change, name, value);
        let key = Key::load(&self.key)?;
        let mac = key.sign(&mut message, Clock.now().wall);
        let answer = match timeout(DEADLINE, self.exchange(&message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => {
                return Err(UpdateError::Reach {
                    server: self.server.clone(),
                    source,
                });
            }
            Err(_) => {
                return Err(UpdateError::Late {
                    server: self.server.clone(),
                });
            }
        };
        self.judge(id, &key, &answer, &mac)
    }

    fn message(&self, id: u16, change: Change, name: &Name, value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        Header {
            id,
            flags: OPCODE_UPDATE,
            counts: [1, 0, 1, 0],
        }
        .write(&mut out);
        out.extend(self.zone.wire());
        out.extend(TYPE_SOA.to_be_bytes());
        out.extend(CLASS_IN.to_be_bytes());
        // RFC 2136, sections 2.5.1 and 2.5.4: this record, and no other of the name.
        let (class, ttl) = match change {
            Change::Add => (CLASS_IN, TTL),
            Change::Remove => (CLASS_NONE, 0),
        };
        put_record(&mut out, name.wire(), (TYPE_TXT, class), ttl, &txt(value));
        out
    }

    async fn exchange(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.server).await?;
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], message].concat();
        stream.write_all(&framed).await?;
        let length = usize::from(stream.read_u16().await?);
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    fn judge(&self, id: u16, key: &Key, answer: &[u8], mac: &[u8]) -> Result<(), UpdateError> {
        let header = Header::read(&mut Reader::new(answer)).filter(|header| header.id == id);
        let Some(header) = header else {
            return Err(UpdateError::Nonsense {
                server: self.server.clone(),
            });
        };
        let code = header.flags & 0xf;
        match key.verify(answer, mac) {
            // A refusal need not be signed to be believed: it is the safe thing to believe.
            Err(SignatureError::Missing) if code != 0 => Err(UpdateError::Refused { code }),
            Err(error) => Err(error.into()),
            Ok(()) if code != 0 => Err(UpdateError::Refused { code }),
            Ok(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    struct World {
        dir: tempfile::TempDir,
        listener: TcpListener,
    }

    impl World {
        async fn new() -> Self {
            let this = Self {
                dir: tempfile::tempdir().unwrap(),
                listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            };
            let key = "key \"k\" { algorithm hmac-sha512; secret \"c2VjcmV0\"; };";
            crate::secret::file::write(&this.key(), key);
            this
        }

        fn key(&self) -> PathBuf {
            self.dir.path().join("key")
        }

        fn updater(&self) -> Updater {
            Updater {
                server: self.listener.local_addr().unwrap().to_string(),
                zone: Name::parse("t.example").unwrap(),
                key: self.key(),
            }
        }

        /// Takes one update and answers with its header and these flags; what was asked.
        async fn serve(&self, flags: u16) -> Vec<u8> {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut asked = vec![0; usize::from(length)];
            stream.read_exact(&mut asked).await.unwrap();
            let mut answer = Vec::new();
            Header {
                id: u16::from_be_bytes([asked[0], asked[1]]),
                flags: 0x8000 | OPCODE_UPDATE | flags,
                counts: [0; 4],
            }
            .write(&mut answer);
            stream.write_u16(12).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            asked
        }

        async fn change(&self, flags: u16) -> (Result<(), UpdateError>, Vec<u8>) {
            let name = Name::parse("_acme-challenge.t.example").unwrap();
            let updater = self.updater();
            let change = updater.change(Change::Add, &name, "value");
            tokio::join!(change, self.serve(flags))
        }
    }

    #[tokio::test]
    async fn an_update_names_the_zone_the_record_and_the_key() {
        let world = World::new().await;
        let (_, asked) = world.change(5).await;
        let mut reader = Reader::new(&asked);
        let header = Header::read(&mut reader).unwrap();
        assert_eq!((header.flags, header.counts), (OPCODE_UPDATE, [1, 0, 1, 1]));
        assert_eq!(reader.name(), Name::parse("t.example"));
        assert_eq!(reader.u16(), Some(TYPE_SOA));
        assert_eq!(reader.u16(), Some(CLASS_IN));
        let record = reader.record().unwrap();
        assert_eq!((record.kind, record.data), (TYPE_TXT, &b"\x05value"[..]));
        assert_eq!(reader.record().unwrap().kind, crate::dns::TYPE_TSIG);
        assert_eq!(reader.position(), asked.len());
    }

    #[tokio::test]
    async fn refusals_say_what_to_do_and_an_unsigned_yes_is_none() {
        let world = World::new().await;
        let refused = world.change(9).await.0.unwrap_err().to_string();
        assert!(refused.ends_with("set acme.dns.zone"), "{refused}");
        let unsigned = world.change(0).await.0;
        let is_missing = matches!(
            unsigned,
            Err(UpdateError::Signature(SignatureError::Missing))
        );
        assert!(is_missing, "{unsigned:?}");
    }

    #[tokio::test]
    async fn nobody_there_and_no_key_are_told_apart() {
        let world = World::new().await;
        let name = Name::parse("t.example").unwrap();
        let mut updater = world.updater();
        drop(world.listener);
        let nobody = updater.change(Change::Remove, &name, "value").await;
        assert!(
            matches!(nobody, Err(UpdateError::Reach { .. })),
            "{nobody:?}"
        );
        updater.key = world.dir.path().join("none");
        let no_key = updater.change(Change::Remove, &name, "value").await;
        assert!(matches!(no_key, Err(UpdateError::Key(_))), "{no_key:?}");
    }
}
