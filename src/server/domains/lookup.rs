//! Asks a resolver for TXT records: UDP, and TCP when the answer does not fit. Not a resolver itself: it
//! believes the one it asks. Every wait has an end, an answer counts only when it comes from whom was asked,
//! to the port and with the number of the question, about its name.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::dns::{
    CLASS_IN, HEADER, Header, Name, Reader, TYPE_CNAME, TYPE_OPT, TYPE_TXT, put_record,
};

/// How long one server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long everything may take.
const WITHIN: Duration = Duration::from_secs(12);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;
/// Servers of the system that are asked, as its own resolver does.
const SERVERS: usize = 3;
/// What we say we can take over UDP (RFC 9715).
const UDP_SIZE: u16 = 1232;
/// Datagrams of others that are passed over before an answer is given up.
const STRAYS: usize = 32;
/// The longest answer over TCP.
const TCP_MAX: usize = 16 * 1024;
/// CNAMEs that are followed within an answer.
const CHAIN: usize = 8;

const RESPONSE: u16 = 1 << 15;
const TRUNCATED: u16 = 1 << 9;
const RECURSION: u16 = 1 << 8;
const OPCODE: u16 = 0xf << 11;
const RCODE: u16 = 0xf;
const NO_SUCH_NAME: u16 = 3;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("no resolver is set up on the server (/etc/resolv.conf)")]
    NoServer,
    #[error("the server's resolver did not answer in time")]
    Late,
    #[error("the server's resolver answered with error {code}")]
    Refused { code: u16 },
    #[error("the server's resolver gave an answer that is none")]
    Malformed,
    #[error("the server's resolver cannot be asked: {0}")]
    Io(#[from] io::Error),
    #[error("that is no name")]
    Name,
}

/// The texts of all TXT records of a name; none when there is no such name.
pub(super) async fn txt(
    resolver: Option<SocketAddr>,
    name: &str,
) -> Result<Vec<String>, LookupError> {
    let name = Name::parse(name).ok_or(LookupError::Name)?;
    let servers = match resolver {
        Some(server) => vec![server],
        None => system_servers().await,
    };
    let asked = tokio::time::timeout(WITHIN, ask_all(&servers, &name)).await;
    asked.unwrap_or(Err(LookupError::Late))
}

async fn ask_all(servers: &[SocketAddr], name: &Name) -> Result<Vec<String>, LookupError> {
    let mut last = LookupError::NoServer;
    for server in std::iter::repeat_n(servers, ROUNDS).flatten() {
        let asked = tokio::time::timeout(ANSWER_WITHIN, ask(*server, name)).await;
        match asked.unwrap_or(Err(LookupError::Late)) {
            Ok(texts) => return Ok(texts),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(server: SocketAddr, name: &Name) -> Result<Vec<String>, LookupError> {
    let question = Question::new(name)?;
    let own: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket for each question: the system gives it a port that nobody can guess. Connected, it hears
    // nobody else.
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question.message).await?;
    let mut buffer = [0; UDP_SIZE as usize];
    for _ in 0..STRAYS {
        let length = socket.recv(&mut buffer).await?;
        match question.read(&buffer[..length]) {
            Answer::Stray => {}
            Answer::Truncated => return ask_tcp(server, &question).await,
            Answer::Texts(texts) => return Ok(texts),
            Answer::Error(error) => return Err(error),
        }
    }
    Err(LookupError::Malformed)
}

async fn ask_tcp(server: SocketAddr, question: &Question) -> Result<Vec<String>, LookupError> {
    let mut tcp = TcpStream::connect(server).await?;
    let length = u16::try_from(question.message.len()).map_err(|_| LookupError::Name)?;
    tcp.write_all(&[&length.to_be_bytes()[..], &question.message].concat())
        .await?;
    let length = usize::from(tcp.read_u16().await?);
    if length > TCP_MAX {
        return Err(LookupError::Malformed);
    }
    let mut answer = vec![0; length];
    tcp.read_exact(&mut answer).await?;
    match question.read(&answer) {
        Answer::Texts(texts) => Ok(texts),
        Answer::Error(error) => Err(error),
        Answer::Stray | Answer::Truncated => Err(LookupError::Malformed),
    }
}

/// What a message is to a question.
#[derive(Debug)]
enum Answer {
    /// Not for us.
    Stray,
    /// There is more over TCP.
    Truncated,
    Texts(Vec<String>),
    Error(LookupError),
}

struct Question {
    id: u16,
    name: Name,
    message: Vec<u8>,
}

impl Question {
    fn new(name: &Name) -> Result<Self, LookupError> {
        let mut id = [0; 2];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("no random numbers"))?;
        Ok(Self::with(name, u16::from_be_bytes(id)))
    }

    fn with(name: &Name, id: u16) -> Self {
        let header = Header {
            id,
            flags: RECURSION,
            counts: [1, 0, 0, 1],
        };
        let mut message = Vec::new();
        header.write(&mut message);
        message.extend(name.wire());
        message.extend(TYPE_TXT.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        put_record(&mut message, &[0], (TYPE_OPT, UDP_SIZE), 0, &[]);
        Self {
            id,
            name: name.clone(),
            message,
        }
    }

    fn read(&self, message: &[u8]) -> Answer {
        let mut reader = Reader::new(message);
        let Some(header) = Header::read(&mut reader) else {
            return Answer::Stray;
        };
        let is_answer = header.flags & RESPONSE != 0 && header.flags & OPCODE == 0;
        if header.id != self.id || !is_answer {
            return Answer::Stray;
        }
        // A refusal may leave the question out (RFC 1035 lets it), and then it says nothing else either.
        let code = header.flags & RCODE;
        if header.counts[0] == 0 && code != 0 && message.len() == HEADER {
            return Answer::Error(LookupError::Refused { code });
        }
        let asked = (reader.name(), reader.u16(), reader.u16());
        let (Some(name), Some(TYPE_TXT), Some(CLASS_IN)) = asked else {
            return Answer::Stray;
        };
        if header.counts[0] != 1 || name != self.name {
            return Answer::Stray;
        }
        match code {
            0 => {}
            NO_SUCH_NAME => return Answer::Texts(Vec::new()),
            code => return Answer::Error(LookupError::Refused { code }),
        }
        if header.flags & TRUNCATED != 0 {
            return Answer::Truncated;
        }
        match self.texts(message, reader, header.counts[1]) {
            Some(texts) => Answer::Texts(texts),
            None => Answer::Error(LookupError::Malformed),
        }
    }

    /// The texts of the name, or of the one that its CNAMEs lead to.
    fn texts(&self, message: &[u8], mut reader: Reader<'_>, count: u16) -> Option<Vec<String>> {
        let mut aliases = Vec::new();
        let mut texts = Vec::new();
        for _ in 0..count {
            let owner = Reader::at(message, reader.position()).name_anywhere()?;
            let record = reader.record()?;
            match (record.kind, record.class) {
                (TYPE_TXT, CLASS_IN) => texts.push((owner, joined(record.data)?)),
                (TYPE_CNAME, CLASS_IN) => {
                    let at = reader.position() - record.data.len();
                    aliases.push((owner, Reader::at(message, at).name_anywhere()?));
                }
                _ => {}
            }
        }
        let mut name = &self.name;
        for _ in 0..CHAIN {
            match aliases.iter().find(|(owner, _)| owner == name) {
                Some((_, target)) => name = target,
                None => break,
            }
        }
        let of_it = texts.iter().filter(|(owner, _)| owner == name);
        Some(of_it.map(|(_, text)| text.clone()).collect())
    }
}

/// The strings of a record, put together (RFC 7208, section 3.3, and everybody since).
fn joined(mut data: &[u8]) -> Option<String> {
    let mut text = Vec::new();
    while let Some((length, rest)) = data.split_first() {
        let (string, rest) = rest.split_at_checked(usize::from(*length))?;
        text.extend(string);
        data = rest;
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Those of the system, as they are now.
async fn system_servers() -> Vec<SocketAddr> {
    let text = tokio::fs::read_to_string("/etc/resolv.conf").await;
    let servers = servers_in(&text.unwrap_or_default());
    match servers.is_empty() {
        // What resolv.conf(5) says of a file that names none.
        true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))],
        false => servers,
    }
}

fn servers_in(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        let ip: IpAddr = address.parse().ok()?;
        Some(SocketAddr::from((ip, 53)))
    };
    text.lines().filter_map(server).take(SERVERS).collect()
}

#[cfg(test)]
mod tests;
