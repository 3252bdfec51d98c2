//! What a key does for others: one thing at a time, but for `rewrap`.

use super::{Signed, Transit, handed, message, new_file, read, unreadable, write};
use crate::cli::wrap::made;
use crate::exit::{Exit, Failure};
use crate::output::{Format, FormatArgs};
use crate::session::Session;
use bulla_client::ClientError;
use bulla_crypto::secret::SecretBytes;
use bulla_crypto::transit::ecdsa_der;
use bulla_wire::api::{
    Decrypt, DecryptItem, Encrypt, EncryptItem, Hmac, HmacItem, ItemError, KeyKind, MAX_RSA_ITEMS, NewDatakey, Sign,
    SignItem, Verify, VerifyHmac, VerifyHmacItem, VerifyItem, Versioned,
};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::error::Code;
use bulla_wire::json::MAX_JSON_BYTES;
use bulla_wire::name::Name;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::Path;

pub async fn run(command: Transit, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Transit::Encrypt { key, file, associated_data, key_version } => {
            let plaintext = message(file.as_deref())?;
            let item = EncryptItem { plaintext, associated_data: encoded(associated_data) };
            let body = Encrypt { items: vec![item], version: key_version };
            let made = session.client()?.transit_encrypt(&key, &body).await?;
            let items = made.items.into_iter().map(|item| (item.ciphertext, item.error));
            lines(session, items)
        }
        Transit::Decrypt { key, ciphertext, associated_data, wrap_to } => {
            let ciphertext = match ciphertext {
                Some(ciphertext) => ciphertext,
                None => text(&read(None)?)?.trim().to_owned(),
            };
            let body = Decrypt { items: vec![DecryptItem { ciphertext, associated_data: encoded(associated_data) }] };
            match wrap_to.outgoing(session).await? {
                Some(outgoing) => handed(session, &session.client()?.transit_decrypt_to(&key, &body, outgoing).await?),
                None => decrypt(session, &key, &body).await,
            }
        }
        Transit::Rewrap { key, ciphertexts, associated_data } => {
            rewrap(session, &key, ciphertexts, encoded(associated_data)).await
        }
        Transit::Datakey { key, bytes, wrapped, wrap_to, associated_data, format } => {
            let body = NewDatakey { bytes, associated_data: encoded(associated_data) };
            if let Some(outgoing) = wrap_to.outgoing(session).await? {
                return made(session, &session.client()?.transit_datakey_to(&key, &body, outgoing).await?, format);
            }
            datakey(session, &key, &body, wrapped, format).await
        }
        Transit::Sign { key, signed, key_version, output } => {
            sign(session, &key, &signed, key_version, output.as_deref()).await
        }
        Transit::Verify { key, signature, signed } => {
            let (message, digest) = input(&signed)?;
            let item = VerifyItem { message, digest, signature };
            let body = Verify { items: vec![item], digest_algorithm: signed.digest_algorithm };
            let made = session.client()?.transit_verify(&key, &body).await?;
            verdict(session, made.items.first().and_then(|item| item.valid), "signature")
        }
        Transit::Hmac { key, file, verify: Some(mac), .. } => {
            let item = VerifyHmacItem { message: message(file.as_deref())?, mac };
            let made = session.client()?.transit_verify_hmac(&key, &VerifyHmac { items: vec![item] }).await?;
            verdict(session, made.items.first().and_then(|item| item.valid), "MAC")
        }
        Transit::Hmac { key, file, verify: None, key_version } => {
            let item = HmacItem { message: message(file.as_deref())? };
            let made = session.client()?.transit_hmac(&key, &Hmac { items: vec![item], version: key_version }).await?;
            lines(session, made.items.into_iter().map(|item| (item.mac, item.error)))
        }
        _ => Err(Failure::usage("this command has no such verb").hint("`bulla transit --help` lists them")),
    }
}

/// Text as the API takes it.
fn encoded(text: Option<String>) -> Option<String> {
    text.map(|text| base64url(text.as_bytes()))
}

fn text(bytes: &SecretBytes) -> Result<&str, Failure> {
    std::str::from_utf8(bytes.expose())
        .map_err(|_| Failure::new(Exit::Failed, "the input is no text").hint("give ciphertexts, `bulla:v1:…` a line"))
}

/// Prints results, one a line; none if one of them failed.
fn lines(
    session: &Session<'_>,
    items: impl Iterator<Item = (Option<String>, Option<ItemError>)>,
) -> Result<Exit, Failure> {
    let one = |(at, item): (usize, (Option<String>, Option<ItemError>))| match item {
        (Some(text), None) => Ok(text),
        (_, Some(ItemError { code, message, hint })) => {
            let place = at.saturating_add(1);
            Err(Failure::new(Exit::Failed, format!("{code} in item {place}: {message}"))
                .hint(hint.unwrap_or_else(|| "leave it out, and try again".to_owned())))
        }
        (None, None) => Err(unreadable()),
    };
    let texts: Vec<String> = items.enumerate().map(one).collect::<Result<_, _>>()?;
    texts.iter().try_for_each(|text| session.screen.line(text))?;
    Ok(Exit::Ok)
}

/// Ciphertexts of the command line or, one a line, of standard input, however many, in batches. What fails is told with its
/// line and leaves an empty one, so that the lines keep their places.
async fn rewrap(
    session: &Session<'_>,
    key: &Name,
    named: Vec<String>,
    associated_data: Option<String>,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut source: Box<dyn Iterator<Item = io::Result<String>>> =
        if named.is_empty() { Box::new(io::stdin().lock().lines()) } else { Box::new(named.into_iter().map(Ok)) };
    let (mut done, mut failed) = (0_usize, 0_usize);
    // What stands in the request beside each ciphertext.
    let beside = associated_data.as_ref().map_or(0, String::len).saturating_add(64);
    let mut next: Option<String> = None;
    loop {
        let (mut items, mut bytes) = (Vec::new(), 0_usize);
        while items.len() < MAX_RSA_ITEMS {
            let read = next.take().map(Ok).or_else(|| source.next()).transpose();
            let read =
                read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
            let Some(ciphertext) = read else { break };
            bytes = bytes.saturating_add(ciphertext.len()).saturating_add(beside);
            if !items.is_empty() && bytes > MAX_JSON_BYTES / 2 {
                next = Some(ciphertext);
                break;
            }
            items.push(DecryptItem { ciphertext, associated_data: associated_data.clone() });
        }
        if items.is_empty() {
            break;
        }
        let last_of_many = items.len() == 1 && done > 0;
        let made = match client.transit_rewrap(key, &Decrypt { items }).await {
            Ok(made) => made.items,
            // A request of one item is refused with it.
            Err(ClientError::Refused { errors, verified: true, .. }) if last_of_many => {
                let told = errors.into_iter().next().ok_or_else(unreadable)?;
                vec![Err(ItemError { code: told.code, message: told.message, hint: told.hint }).into()]
            }
            // So is a line that no request has room for.
            Err(ClientError::Input { what, hint }) if last_of_many => {
                vec![Err(ItemError { code: Code::TooLarge, message: what, hint: Some(hint) }).into()]
            }
            Err(error) => return Err(error.into()),
        };
        for item in made {
            done = done.saturating_add(1);
            match item.error {
                None => session.screen.line(&item.ciphertext.ok_or_else(unreadable)?)?,
                Some(ItemError { code, message, .. }) => {
                    failed = failed.saturating_add(1);
                    session.screen.line("")?;
                    session.screen.say(&format!("line {done}: {code}: {message}"));
                }
            }
        }
    }
    if failed > 0 {
        return Err(Failure::new(Exit::Failed, format!("{failed} of {done} were not encrypted anew"))
            .hint("their lines are empty; what is wrong with each stands above"));
    }
    Ok(Exit::Ok)
}

async fn decrypt(session: &Session<'_>, key: &Name, body: &Decrypt) -> Result<Exit, Failure> {
    let made = session.client()?.transit_decrypt(key, body).await?;
    let text = made.items.into_iter().next().and_then(|item| item.plaintext).ok_or_else(unreadable)?;
    let plaintext = base64url_decode(&text).map(SecretBytes::new).ok_or_else(unreadable)?;
    let printable = |text: &str| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'));
    if io::stdout().is_terminal() && !std::str::from_utf8(plaintext.expose()).is_ok_and(printable) {
        return Err(Failure::new(Exit::Failed, "the plaintext is no text, and standard output is a terminal")
            .hint("send it to a file with `> FILE`"));
    }
    session.screen.bytes(plaintext.expose())?;
    if io::stdout().is_terminal() && !plaintext.expose().ends_with(b"\n") {
        session.screen.bytes(b"\n")?;
    }
    Ok(Exit::Ok)
}

async fn datakey(
    session: &Session<'_>,
    key: &Name,
    body: &NewDatakey,
    wrapped: bool,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    if wrapped {
        let made = client.transit_datakey_wrapped(key, body).await?;
        return match format {
            Format::Json => session.screen.json(&made),
            Format::Table => session.screen.line(&made.ciphertext),
        }
        .map(|()| Exit::Ok);
    }
    let made = client.transit_datakey(key, body).await?;
    match format {
        Format::Json => session.screen.json(&made)?,
        Format::Table => session.screen.pairs(&[("plaintext", made.plaintext), ("ciphertext", made.ciphertext)])?,
    }
    Ok(Exit::Ok)
}

/// What is signed, as message or digest.
fn input(signed: &Signed) -> Result<(Option<String>, Option<String>), Failure> {
    let bytes = message(signed.file.as_deref())?;
    Ok(if signed.prehashed { (None, Some(bytes)) } else { (Some(bytes), None) })
}

async fn sign(
    session: &Session<'_>,
    key: &Name,
    signed: &Signed,
    version: Option<u32>,
    output: Option<&Path>,
) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (message, digest) = input(signed)?;
    let target = output.map(|path| Ok::<_, Failure>((path, new_file(path)?))).transpose()?;
    let item = SignItem { message, digest };
    let body = Sign { items: vec![item], version, digest_algorithm: signed.digest_algorithm };
    let made = client.transit_sign(key, &body).await?;
    let kind = made.kind;
    let Some((path, target)) = target else {
        return lines(session, made.items.into_iter().map(|item| (item.signature, item.error)));
    };
    let text = made.items.into_iter().next().and_then(|item| item.signature).ok_or_else(unreadable)?;
    let made: Versioned = text.parse().map_err(|_| unreadable())?;
    let bytes = match kind {
        KeyKind::EcdsaP256 | KeyKind::EcdsaP384 => ecdsa_der(&made.bytes).ok_or_else(unreadable)?,
        _ => made.bytes,
    };
    write(path, target, &bytes)?;
    session.screen.say(&format!("signed by version {} of {key}", made.version));
    Ok(Exit::Ok)
}

fn verdict(session: &Session<'_>, valid: Option<bool>, what: &str) -> Result<Exit, Failure> {
    match valid {
        Some(true) => session.screen.line("valid").map(|()| Exit::Ok),
        Some(false) => Err(Failure::new(Exit::Untrusted, format!("the {what} does not hold"))
            .hint("another message, another key, or other options than it was made with")),
        None => Err(unreadable()),
    }
}
