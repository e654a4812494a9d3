//! What an acceptable request head is: pure, shared by HTTP/1, 2 and 3. Not a parser for use: hyper
//! and h2 parse; this room judges, and says what of a head may go on.
//!
//! - [`raw`] looks at the bytes of an HTTP/1 head before hyper does, [`chunked`] at a chunked body:
//!   what makes request smuggling possible is gone when a parser hands out its values.
//! - [`head`] judges meaning, the same for every version, and gives the one canonical head.
//! - [`response`] says what of an origin's response head may go out.
//! - [`basic`] and [`cookies`] read what visitors say of themselves, and what origins set.
//! - [`frames`] counts HTTP/2 frames that serve no visit.
//! - [`limits`] has the documented numbers.

mod authority;
pub mod basic;
pub mod chunked;
pub mod cookies;
mod error;
mod fields;
pub mod frames;
pub mod head;
pub mod limits;
pub mod raw;
pub mod response;
mod target;

pub use authority::{Authority, Host, Scheme};
pub use error::HeadError;
pub use fields::clean_trailers;
