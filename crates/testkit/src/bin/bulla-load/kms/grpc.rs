//! A client of KMS v2 (KEP-3299) as kube-apiserver is one: gRPC over HTTP/2 on a Unix socket, one connection for all callers.
//!
//! Its messages have so few fields that they are written here by hand, apart from those of the plugin that is measured.

use crate::Fault;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::path::Path;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

/// Largest answer that is read, in bytes: a ciphertext and a key id have a KiB each at most.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// A message of gRPC begins with a byte that says whether it is compressed, and four with its length.
const PREFIX_BYTES: usize = 5;
/// How a field is written whose value is a string of bytes (protobuf's wire type LEN).
const LEN: u8 = 2;

/// A client with its connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    connection: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A seed that was encrypted, as kube-apiserver would store it.
pub struct Encrypted {
    /// What came of it.
    ciphertext: Vec<u8>,
    /// By which key.
    key_id: Vec<u8>,
}

impl Client {
    /// Connects to a plugin's socket.
    pub async fn connect(socket: &Path) -> Result<Self, Fault> {
        let stream = UnixStream::connect(socket).await?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // Its error is also the sender's.
        Ok(Self { sender, connection: tokio::spawn(connection).abort_handle() })
    }

    /// Asks for the status, which has to be good.
    pub async fn status(&self) -> Result<(), Fault> {
        let answer = self.call("Status", &[]).await?;
        match (field(&answer, 1)?, field(&answer, 2)?, field(&answer, 3)?) {
            (b"v2", b"ok", key_id) if !key_id.is_empty() => Ok(()),
            (version, health, _) => Err(format!(
                "Status: version {:?}, healthz {:?}",
                String::from_utf8_lossy(version),
                String::from_utf8_lossy(health)
            )
            .into()),
        }
    }

    /// Has a seed encrypted.
    pub async fn encrypt(&self, seed: &[u8]) -> Result<Encrypted, Fault> {
        let answer = self.call("Encrypt", &message(&[(1, seed), (2, b"bench")])).await?;
        let made = Encrypted { ciphertext: field(&answer, 1)?.to_vec(), key_id: field(&answer, 2)?.to_vec() };
        if made.ciphertext.is_empty() || made.key_id.is_empty() {
            return Err("Encrypt: an answer without ciphertext or key id".into());
        }
        Ok(made)
    }

    /// Has a seed decrypted, and looks whether it is the one that was encrypted.
    pub async fn decrypt(&self, encrypted: &Encrypted, seed: &[u8]) -> Result<(), Fault> {
        let asked = message(&[(1, &encrypted.ciphertext), (2, b"bench"), (3, &encrypted.key_id)]);
        let answer = self.call("Decrypt", &asked).await?;
        if field(&answer, 1)? == seed { Ok(()) } else { Err("Decrypt: another seed came back".into()) }
    }

    async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, Fault> {
        let mut body = vec![0];
        body.extend(u32::try_from(message.len())?.to_be_bytes());
        body.extend(message);
        let request = Request::post(format!("http://localhost/v2.KeyManagementService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "3S")
            .body(Full::new(Bytes::from(body)))?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
        let said = |name| {
            // An answer without a message has its status in the head.
            let trailer = collected.trailers().and_then(|trailers| trailers.get(name));
            let value = trailer.or_else(|| head.headers.get(name)).map(http::HeaderValue::as_bytes);
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        let (code, why) = (said("grpc-status"), said("grpc-message"));
        if code != "0" {
            return Err(format!("{method}: status {code} of gRPC: {why}").into());
        }
        unframed(&collected.to_bytes()).map_err(|error| format!("{method}: {error}").into())
    }
}

/// The message in the body of an answer.
fn unframed(body: &Bytes) -> Result<Bytes, Fault> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES).ok_or("an answer without a message")?;
    let length = u32::try_from(message.len())?.to_be_bytes();
    if prefix == [&[0], &length[..]].concat() {
        Ok(body.slice(PREFIX_BYTES..))
    } else {
        Err("an answer of another length than it says, or a compressed one".into())
    }
}

/// A message of these fields.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, value) in fields {
        message.push(number << 3 | LEN);
        let mut length = value.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend(*value);
    }
    message
}

/// A field of a message; one that is missing is empty. All fields of these messages are strings of bytes.
fn field(mut message: &[u8], number: u8) -> Result<&[u8], Fault> {
    let mut found = &[][..];
    while let Some((tag, rest)) = message.split_first() {
        if tag & 7 != LEN {
            return Err("a field of a kind that the protocol does not have".into());
        }
        let (length, rest) = varint(rest).ok_or("a field without a length")?;
        let (value, rest) = rest.split_at_checked(length).ok_or("a field that is cut short")?;
        if tag >> 3 == number {
            found = value;
        }
        message = rest;
    }
    Ok(found)
}

/// A number at the beginning, seven bits in each byte, and what follows it. More than four bytes no length here has.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_protobuf() {
        assert_eq!(message(&[(1, b"ab"), (2, b"u")]), b"\x0a\x02ab\x12\x01u");
        let long = [7; 300];
        let sent = message(&[(1, &long), (3, b"key")]);
        assert_eq!(sent.get(..3), Some(&b"\x0a\xac\x02"[..]));
        assert_eq!(field(&sent, 1).unwrap(), long);
        assert_eq!((field(&sent, 2).unwrap(), field(&sent, 3).unwrap()), (&b""[..], &b"key"[..]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in [&b"\x0a"[..], b"\x0a\x05ab", b"\x0a\xff\xff\xff\xff\x01", b"\x08\x01"] {
            assert!(field(bad, 1).is_err(), "{bad:?}");
        }
        let body = Bytes::from_static(b"\0\0\0\0\x02ab");
        assert_eq!(unframed(&body).unwrap(), "ab");
        for bad in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x03ab", b"\x01\0\0\0\x02ab"] {
            assert!(unframed(&Bytes::from_static(bad)).is_err(), "{bad:?}");
        }
    }
}
