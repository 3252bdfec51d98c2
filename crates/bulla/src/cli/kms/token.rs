//! `bulla kms keygen`: what the plugin has on tokens.

use super::identity::on_token;
use crate::cli::absolute;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use bulla_keys::KeySource;
use bulla_keys::uri::TokenUri;

/// Makes an AES key on a token.
pub fn keygen(place: &KeySource, session: &Session<'_>) -> Result<Exit, Failure> {
    let uri = on_token(place)?;
    let pin_file = session.global.pin_file.as_deref().filter(|_| uri.pin_source.is_none());
    let pin_file = pin_file.map(absolute).transpose()?;
    let id = session.make_aes_on_token(uri)?;
    let shown: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let named = TokenUri { id: Some(id), ..uri.clone() };
    let mut text = format!("# Key {shown}.\n[members.hsm.pkcs11]\nuri = {}\n", quoted(named.to_string()));
    if let Some(path) = pin_file {
        text.push_str(&format!("pin_file = {}\n", quoted(path.display().to_string())));
    }
    session.screen.bytes(text.as_bytes())?;
    session.screen.say(&format!("the key has the id {shown}, and cannot be read out of the token"));
    session.screen.hint("every node needs this key: where each has a token of its own, copy it by the vendor's tool");
    Ok(Exit::Ok)
}

/// A string of TOML.
fn quoted(text: String) -> String {
    toml::Value::String(text).to_string()
}
