//! A strict look at the raw bytes of an HTTP/1 request head (RFC 9112), byte by byte, so that a head
//! is refused as soon as its offending byte is read. Not the parser: hyper parses what passed here.
//!
//! hyper alone accepts bare LF, Content-Length with Transfer-Encoding, no Host and more; by the time
//! its values reach us the evidence is gone.

use super::target::{PathScanner, check_method, is_token, is_value};
use super::{Authority, HeadError, Scheme, fields, limits};

/// The two versions that a raw head can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawVersion {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// What delimits the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// That many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// What whoever passes the bytes on must know of an accepted head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawHead {
    /// The version.
    pub version: RawVersion,
    /// What delimits the body.
    pub framing: Framing,
    /// Whether it has an `Upgrade` field: what follows the message may be no HTTP.
    pub wants_upgrade: bool,
}

/// Longest authority that can be one: host, brackets, colon and port.
const AUTHORITY_MAX: usize = 262;

/// Longest scheme with its `://`.
const SCHEME_MAX: usize = 8;

/// `transfer-encoding` is the longest name of interest.
const NAME_MAX: usize = 17;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before anything: one empty line is tolerated here (RFC 9112 section 2.2).
    Start,
    /// That empty line's CR was read.
    StartLf,
    Method,
    Target,
    /// So many bytes of `HTTP/1.x` CR LF were read.
    Version(usize),
    LineStart,
    Name,
    Value,
    ValueLf,
    EndLf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Host,
    ContentLength,
    TransferEncoding,
    Upgrade,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing of the target was read.
    Unknown,
    /// `/path`
    Origin,
    /// `*`
    Asterisk,
    /// Inside `http://`.
    Scheme,
    /// Inside the authority of an absolute target.
    Authority,
    /// Behind it.
    AbsolutePath,
}

/// Reads one head; a new one is needed for the next.
#[derive(Debug)]
pub struct HeadScanner {
    scheme: Scheme,
    state: State,
    tolerated: bool,
    size: usize,
    target_size: usize,
    form: Form,
    path: PathScanner,
    method: Vec<u8>,
    /// The lower-case name being read; longer ones are of no interest and are cut.
    name: [u8; NAME_MAX],
    name_size: usize,
    field: Field,
    fields: usize,
    /// A value that is judged as a whole, or the scheme or authority of an absolute target.
    value: Vec<u8>,
    version: RawVersion,
    named_by_target: Option<Authority>,
    host: Option<Authority>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl HeadScanner {
    /// For the next head on a connection of that scheme.
    pub const fn new(scheme: Scheme) -> Self {
        Self {
            scheme,
            state: State::Start,
            tolerated: false,
            size: 0,
            target_size: 0,
            form: Form::Unknown,
            path: PathScanner::new(),
            method: Vec::new(),
            name: [0; NAME_MAX],
            name_size: 0,
            field: Field::Other,
            fields: 0,
            value: Vec::new(),
            version: RawVersion::Http11,
            named_by_target: None,
            host: None,
            length: None,
            chunked: false,
            upgrade: false,
        }
    }

    /// Whether any byte was read.
    pub fn started(&self) -> bool {
        self.state != State::Start || self.tolerated
    }

    /// Whether the method, as far as it was read, is HEAD: its answer has no body even when refused.
    pub fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }

    /// Takes bytes: `None` when all were taken and the head goes on, else the head and how many bytes
    /// belonged to it. After an error the scanner is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<(usize, RawHead)>, HeadError> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.run(&bytes[at..])?;
            if at == bytes.len() {
                break;
            }
            self.grow(1)?;
            let done = self.step(bytes[at])?;
            at += 1;
            if done {
                return self.finish().map(|head| Some((at, head)));
            }
        }
        Ok(None)
    }

    /// Takes in one go the bytes that only make something longer, which are most of a head; how many.
    fn run(&mut self, rest: &[u8]) -> Result<usize, HeadError> {
        let until = |ends: fn(&u8) -> bool| rest.iter().position(ends).unwrap_or(rest.len());
        let plain = match (self.state, self.form, self.field) {
            (State::Target, Form::Origin | Form::AbsolutePath, _) => {
                let plain = self.path.run(rest);
                self.target_size += plain;
                if self.target_size > limits::TARGET_MAX {
                    return Err(HeadError::TargetTooLong);
                }
                plain
            }
            (State::Name, ..) => {
                let plain = until(|b| !is_token(*b));
                rest[..plain].iter().for_each(|b| self.push_name(*b));
                plain
            }
            (State::Value, _, Field::Other) => until(|b| !is_value(*b)),
            (State::Value, _, Field::Host) => {
                let room = AUTHORITY_MAX.saturating_sub(self.value.len());
                let plain = until(|b| matches!(b, b' ' | b'\t') || !is_value(*b)).min(room);
                self.value.extend_from_slice(&rest[..plain]);
                plain
            }
            _ => 0,
        };
        self.grow(plain)?;
        Ok(plain)
    }

    fn grow(&mut self, by: usize) -> Result<(), HeadError> {
        self.size += by;
        if self.size > limits::HEAD_MAX {
            return Err(HeadError::HeadTooLarge);
        }
        Ok(())
    }

    /// One byte; true at the head's end.
    fn step(&mut self, b: u8) -> Result<bool, HeadError> {
        match self.state {
            State::Start => self.start(b)?,
            State::StartLf => {
                if b != b'\n' {
                    return Err(HeadError::BareCr);
                }
                self.tolerated = true;
                self.size = 0;
                self.state = State::Start;
            }
            State::Method => self.method(b)?,
            State::Target => self.target(b)?,
            State::Version(read) => self.version(read, b)?,
            State::LineStart => self.line_start(b)?,
            State::Name => self.name(b)?,
            State::Value => self.value(b)?,
            State::ValueLf => {
                if b != b'\n' {
                    return Err(HeadError::BareCr);
                }
                self.state = State::LineStart;
            }
            State::EndLf => {
                return if b == b'\n' {
                    Ok(true)
                } else {
                    Err(HeadError::BareCr)
                };
            }
        }
        Ok(false)
    }

    fn start(&mut self, b: u8) -> Result<(), HeadError> {
        match b {
            b'\r' if !self.tolerated => self.state = State::StartLf,
            b'\n' => return Err(HeadError::BareLf),
            b if is_token(b) => {
                self.method.push(b);
                self.state = State::Method;
            }
            _ => return Err(HeadError::RequestLine),
        }
        Ok(())
    }

    fn method(&mut self, b: u8) -> Result<(), HeadError> {
        match b {
            b' ' => {
                check_method(&self.method)?;
                self.state = State::Target;
            }
            b'\n' => return Err(HeadError::BareLf),
            b if is_token(b) => {
                self.method.push(b);
                if self.method.len() > limits::METHOD_MAX {
                    return Err(HeadError::MethodTooLong);
                }
            }
            _ => return Err(HeadError::RequestLine),
        }
        Ok(())
    }

    fn target(&mut self, b: u8) -> Result<(), HeadError> {
        match b {
            b' ' => {
                self.end_target()?;
                self.state = State::Version(0);
                return Ok(());
            }
            b'\n' => return Err(HeadError::BareLf),
            // `GET /` and nothing more: HTTP/0.9.
            b'\r' => return Err(HeadError::RequestLine),
            _ => {}
        }
        self.target_size += 1;
        if self.target_size > limits::TARGET_MAX {
            return Err(HeadError::TargetTooLong);
        }
        match self.form {
            Form::Unknown => {
                self.form = match b {
                    b'/' => Form::Origin,
                    b'*' if self.method == b"OPTIONS" => Form::Asterisk,
                    b if b.is_ascii_alphabetic() => Form::Scheme,
                    _ => return Err(HeadError::Target),
                };
                match self.form {
                    Form::Scheme => self.value.push(b),
                    _ => self.path.feed(b)?,
                }
            }
            Form::Asterisk => return Err(HeadError::Target),
            Form::Origin | Form::AbsolutePath => self.path.feed(b)?,
            Form::Scheme => self.target_scheme(b)?,
            Form::Authority => match b {
                b'/' | b'?' => {
                    self.end_authority()?;
                    self.form = Form::AbsolutePath;
                    self.path.feed(b)?;
                }
                _ if self.value.len() >= AUTHORITY_MAX => return Err(HeadError::HostMalformed),
                _ => self.value.push(b),
            },
        }
        Ok(())
    }

    fn target_scheme(&mut self, b: u8) -> Result<(), HeadError> {
        self.value.push(b);
        if self.value.len() > SCHEME_MAX {
            return Err(HeadError::Target);
        }
        let Some(name) = self.value.strip_suffix(b"://") else {
            return Ok(());
        };
        match Scheme::parse(name) {
            Some(scheme) if scheme == self.scheme => {}
            Some(_) => return Err(HeadError::SchemeMismatch),
            None => return Err(HeadError::Scheme),
        }
        self.value.clear();
        self.form = Form::Authority;
        Ok(())
    }

    fn end_authority(&mut self) -> Result<(), HeadError> {
        self.named_by_target = Some(Authority::parse(&self.value, self.scheme)?);
        self.value.clear();
        Ok(())
    }

    fn end_target(&mut self) -> Result<(), HeadError> {
        match self.form {
            Form::Unknown => Err(HeadError::RequestLine),
            Form::Scheme => Err(HeadError::Target),
            Form::Authority => self.end_authority(),
            Form::Origin | Form::Asterisk | Form::AbsolutePath => self.path.end(),
        }
    }

    fn version(&mut self, read: usize, b: u8) -> Result<(), HeadError> {
        const LINE: &[u8] = b"HTTP/1.?\r\n";
        match (read, b) {
            (7, b'0') => self.version = RawVersion::Http10,
            (7, b'1') => self.version = RawVersion::Http11,
            (8, b'\n') => return Err(HeadError::BareLf),
            (9, b) if b != b'\n' => return Err(HeadError::BareCr),
            (read, b) if read != 7 && LINE[read] == b => {}
            _ => return Err(HeadError::Version),
        }
        self.state = if read + 1 == LINE.len() {
            State::LineStart
        } else {
            State::Version(read + 1)
        };
        Ok(())
    }

    fn line_start(&mut self, b: u8) -> Result<(), HeadError> {
        match b {
            b'\r' => {
                self.state = State::EndLf;
                return Ok(());
            }
            b'\n' => return Err(HeadError::BareLf),
            b' ' | b'\t' => return Err(HeadError::Folded),
            b if is_token(b) => {}
            _ => return Err(HeadError::FieldName),
        }
        self.fields += 1;
        if self.fields > limits::FIELDS_MAX {
            return Err(HeadError::TooManyFields);
        }
        self.name_size = 0;
        self.push_name(b);
        self.state = State::Name;
        Ok(())
    }

    fn push_name(&mut self, b: u8) {
        if let Some(slot) = self.name.get_mut(self.name_size) {
            *slot = b.to_ascii_lowercase();
        }
        self.name_size += 1;
    }

    fn name(&mut self, b: u8) -> Result<(), HeadError> {
        match b {
            b':' => self.end_name()?,
            b'\r' => return Err(HeadError::NoColon),
            b'\n' => return Err(HeadError::BareLf),
            b if is_token(b) => self.push_name(b),
            _ => return Err(HeadError::FieldName),
        }
        Ok(())
    }

    /// What a name alone gives away is refused here, before its value is read.
    fn end_name(&mut self) -> Result<(), HeadError> {
        self.field = match self.name.get(..self.name_size) {
            Some(b"host") => Field::Host,
            Some(b"content-length") => Field::ContentLength,
            Some(b"transfer-encoding") => Field::TransferEncoding,
            Some(b"upgrade") => Field::Upgrade,
            _ => Field::Other,
        };
        match self.field {
            Field::Host if self.host.is_some() => return Err(HeadError::HostTwice),
            Field::ContentLength if self.chunked => return Err(HeadError::LengthAndEncoding),
            Field::ContentLength if self.length.is_some() => return Err(HeadError::ContentLength),
            Field::TransferEncoding if self.length.is_some() => {
                return Err(HeadError::LengthAndEncoding);
            }
            Field::TransferEncoding if self.chunked || self.version == RawVersion::Http10 => {
                return Err(HeadError::TransferEncoding);
            }
            Field::Upgrade => self.upgrade = self.version == RawVersion::Http11,
            _ => {}
        }
        self.value.clear();
        self.state = State::Value;
        Ok(())
    }

    fn value(&mut self, b: u8) -> Result<(), HeadError> {
        match b {
            b'\r' => {
                self.end_value()?;
                self.state = State::ValueLf;
                return Ok(());
            }
            b'\n' => return Err(HeadError::BareLf),
            b if !is_value(b) => return Err(HeadError::FieldValue),
            _ => {}
        }
        let blank = matches!(b, b' ' | b'\t');
        match self.field {
            Field::Other | Field::Upgrade => return Ok(()),
            _ if blank && self.value.is_empty() => return Ok(()),
            Field::ContentLength if !blank && !b.is_ascii_digit() => {
                return Err(HeadError::ContentLength);
            }
            Field::ContentLength if !blank && self.value.ends_with(b" ") => {
                return Err(HeadError::ContentLength);
            }
            Field::TransferEncoding if self.value.len() > NAME_MAX => {
                return Err(HeadError::TransferEncoding);
            }
            Field::Host if self.value.len() > AUTHORITY_MAX => {
                return Err(HeadError::HostMalformed);
            }
            _ => {}
        }
        // A tab is a blank like any other, so one spelling is enough.
        self.value.push(if blank { b' ' } else { b });
        if self.field == Field::ContentLength && self.value.len() > 64 {
            return Err(HeadError::ContentLength);
        }
        Ok(())
    }

    fn end_value(&mut self) -> Result<(), HeadError> {
        let value = self.value.trim_ascii();
        match self.field {
            Field::Host => self.host = Some(Authority::parse(value, self.scheme)?),
            Field::ContentLength => self.length = Some(fields::parse_length(value)?),
            Field::TransferEncoding if value.eq_ignore_ascii_case(b"chunked") => {
                self.chunked = true
            }
            Field::TransferEncoding => return Err(HeadError::TransferEncoding),
            Field::Upgrade | Field::Other => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<RawHead, HeadError> {
        let host = self.host.as_ref().ok_or(HeadError::HostMissing)?;
        if self
            .named_by_target
            .as_ref()
            .is_some_and(|named| named != host)
        {
            return Err(HeadError::HostsDiffer);
        }
        let framing = match self.length {
            _ if self.chunked => Framing::Chunked,
            Some(0) | None => Framing::None,
            Some(length) => Framing::Length(length),
        };
        if self.version == RawVersion::Http10
            && self.length.is_none()
            && matches!(&self.method[..], b"POST" | b"PUT" | b"PATCH")
        {
            return Err(HeadError::LengthMissing);
        }
        Ok(RawHead {
            version: self.version,
            framing,
            wants_upgrade: self.upgrade,
        })
    }
}

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;
