//! What is done on OpenBao, each beside the operation of ours that does the same for a user.

use super::certificates::Credential;
use super::https::{Answer, Header, Https};
use super::openbao::{OpenBao, text};
use crate::Fault;
use crate::installation::{PEOPLE, VALUE_BYTES};
use crate::stock::Stock;
use data_encoding::BASE64URL_NOPAD;
use http::Method;
use serde_json::{Value, json};

/// How long a wrap that is opened at once may live, in seconds.
const WRAP_LIFE: &str = "300";
/// How long one lives that has to lie there: as ours.
const LYING_LIFE: &str = "86400";
/// Where clients prove themselves with each request.
const INLINE_PATH: Header<'static> = ("x-vault-inline-auth-path", "auth/cert/login");

/// An operation on OpenBao.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Content is wrapped by one client and unwrapped by the next.
    Cycle,
    /// A secret is written with a token.
    Write,
    /// A secret is read with a token.
    Read,
    /// A secret is read with a certificate that is checked for this request: nothing that could be stolen and used
    /// is sent, as with a signature.
    ReadInline,
    /// A client that has a certificate and nothing else: connection, login, one secret.
    ColdLogin,
    /// The same without login: connection, one secret by certificate.
    ColdInline,
    /// A directory of secrets is listed.
    List,
    /// A transit key encrypts.
    Encrypt,
    /// It encrypts many things of one request.
    EncryptMany,
    /// It decrypts.
    Decrypt,
    /// It decrypts many things of one request.
    DecryptMany,
    /// A transit key signs.
    Sign,
    /// It signs many things of one request.
    SignMany,
    /// A user of a database is made, for a lease.
    Issue,
    /// A lease is renewed.
    Renew,
    /// The leases that were begun are revoked.
    Revoke,
}

impl Call {
    /// Whether it goes on until nothing is left of what another made.
    pub fn drains(self) -> bool {
        self == Self::Revoke
    }

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycle => "wrap + unwrap",
            Self::Write => "write by token",
            Self::Read => "read by token",
            Self::ReadInline => "read by certificate, inline",
            Self::ColdLogin => "new connection, certificate login, read",
            Self::ColdInline => "new connection, read by certificate, inline",
            Self::List => "list by token",
            Self::Encrypt | Self::EncryptMany => "encrypt by token",
            Self::Decrypt | Self::DecryptMany => "decrypt by token",
            Self::Sign | Self::SignMany => "sign by token",
            Self::Issue => "credentials by token",
            Self::Renew => "renew by token",
            Self::Revoke => "revoke by token",
        }
    }
}

/// Somebody with a token, a certificate, and a connection for each.
pub struct Seat {
    /// The token.
    pub token: String,
    /// Where it is used.
    pub by_token: Https,
    credential: Credential,
    by_certificate: Https,
}

/// A server and those who use it.
pub struct Counter {
    /// The server.
    pub server: OpenBao,
    /// What lies there besides everybody's own secret.
    pub stock: Stock,
    seats: Vec<Seat>,
    /// The parameter that names the role.
    role: String,
}

impl Counter {
    /// Makes everybody's token and certificate, and gives each a secret of their own.
    pub async fn new(server: OpenBao) -> Result<Self, Fault> {
        server.furnish().await?;
        let mut seats = Vec::with_capacity(PEOPLE);
        for number in 0..PEOPLE {
            let credential = server.authority.client(&format!("person{number}"))?;
            let by_token = Https::new(server.address(), server.authority.tls(None)?);
            let by_certificate = Https::new(server.address(), server.authority.tls(Some(&credential))?);
            seats.push(Seat { token: server.token().await?, by_token, credential, by_certificate });
        }
        let role = BASE64URL_NOPAD.encode(&serde_json::to_vec(&json!({"key": "name", "value": "bench"}))?);
        let counter = Self { server, stock: Stock::default(), seats, role };
        for number in 0..PEOPLE {
            counter.once(Call::Write, number).await?;
        }
        Ok(counter)
    }

    /// Somebody.
    pub fn seat(&self, number: usize) -> Result<&Seat, Fault> {
        self.seats.get(number).ok_or_else(|| "fewer seats than clients".into())
    }

    /// Does it once. `false` if there is nothing to do.
    pub async fn once(&self, call: Call, number: usize) -> Result<bool, Fault> {
        let seat = self.seat(number)?;
        let token: Header<'_> = ("x-vault-token", &seat.token);
        let inline = [INLINE_PATH, ("x-vault-inline-auth-parameter-1", &*self.role)];
        match call {
            Call::Cycle => {
                let wrapped = self.wrap(number, VALUE_BYTES, WRAP_LIFE).await?;
                let next = self.seats.get(number + 1).or(self.seats.first()).ok_or("there are no seats")?;
                let own: Header<'_> = ("x-vault-token", &wrapped);
                let opened = next.by_token.send(Method::POST, "/v1/sys/wrapping/unwrap", &[own], None).await?;
                whole(&opened.json()?, "/data/value")?;
            }
            Call::Write => self.write(number, &self.stock.secrets.next(number)).await?,
            Call::Read => secret(&read(&seat.by_token, &self.stock.secrets.next(number), &[token]).await?)?,
            Call::ReadInline => secret(&read(&seat.by_certificate, &self.stock.secrets.next(number), &inline).await?)?,
            Call::ColdLogin => {
                let https = self.stranger(number)?;
                let body = json!({"name": "bench"});
                let login = https.send(Method::POST, "/v1/auth/cert/login", &[], Some(&body)).await?.json()?;
                let token = text(&login, "/auth/client_token")?;
                secret(&read(&https, &own(number), &[("x-vault-token", token)]).await?)?;
            }
            Call::ColdInline => secret(&read(&self.stranger(number)?, &own(number), &inline).await?)?,
            engine => return self.engine(engine, number).await,
        }
        Ok(true)
    }

    /// Writes a secret.
    pub async fn write(&self, number: usize, path: &str) -> Result<(), Fault> {
        let seat = self.seat(number)?;
        let token: Header<'_> = ("x-vault-token", &seat.token);
        let (path, body) = (format!("/v1/secret/data/{path}"), json!({"data": {"value": "x".repeat(VALUE_BYTES)}}));
        let written = seat.by_token.send(Method::POST, &path, &[token], Some(&body)).await?.json()?;
        written.pointer("/data/version").map(|_| ()).ok_or_else(|| "a write has no version".into())
    }

    /// Makes a wrap that lies there for a day.
    pub async fn lay(&self, number: usize, bytes: usize) -> Result<(), Fault> {
        self.wrap(number, bytes, LYING_LIFE).await.map(drop)
    }

    /// Reads a secret over a new connection with a token.
    pub async fn newcomer(&self) -> Result<(), Fault> {
        let seat = self.seats.first().ok_or("there are no seats")?;
        let https = Https::new(self.server.address(), self.server.authority.tls(None)?);
        secret(&read(&https, &own(0), &[("x-vault-token", &seat.token)]).await?)
    }

    /// The client of somebody, for a look at its connections.
    pub fn client(&self) -> Result<&Https, Fault> {
        Ok(&self.seats.first().ok_or("there are no seats")?.by_token)
    }

    async fn wrap(&self, number: usize, bytes: usize, life: &str) -> Result<String, Fault> {
        let seat = self.seat(number)?;
        let headers = [("x-vault-token", &*seat.token), ("x-vault-wrap-ttl", life)];
        let body = json!({"value": "x".repeat(bytes)});
        let made = seat.by_token.send(Method::POST, "/v1/sys/wrapping/wrap", &headers, Some(&body)).await?.json()?;
        Ok(text(&made, "/wrap_info/token")?.to_owned())
    }

    /// A client that has a certificate and knows no session.
    fn stranger(&self, number: usize) -> Result<Https, Fault> {
        let seat = self.seat(number)?;
        Ok(Https::new(self.server.address(), self.server.authority.tls(Some(&seat.credential))?))
    }
}

/// Everybody's own secret.
fn own(number: usize) -> String {
    format!("bench/{number}")
}

async fn read(https: &Https, path: &str, headers: &[Header<'_>]) -> Result<Answer, Fault> {
    https.send(Method::GET, &format!("/v1/secret/data/{path}"), headers, None).await
}

fn secret(answer: &Answer) -> Result<(), Fault> {
    whole(&answer.json()?, "/data/data/value")
}

/// Whether as much came back as was given.
fn whole(answer: &Value, place: &str) -> Result<(), Fault> {
    if text(answer, place)?.len() == VALUE_BYTES { Ok(()) } else { Err("the content came back otherwise".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_counted() {
        let answer = |bytes: usize| json!({"data": {"data": {"value": "x".repeat(bytes)}}});
        assert!(whole(&answer(VALUE_BYTES), "/data/data/value").is_ok());
        assert!(whole(&answer(VALUE_BYTES - 1), "/data/data/value").is_err());
        assert!(whole(&answer(VALUE_BYTES), "/data/value").is_err());
    }
}
