//! Identities of age plugins: files that `age-plugin-yubikey` and others write (C2SP `age-plugin.md`).
//!
//! What the line with the key means is the plugin's secret. What is sealed to it stands in a comment, which nothing
//! proves: whoever puts the recipient into a record opens something with the plugin first.

use super::{IdentityError, MAX_IDENTITY_BYTES};
use crate::bech32;
use crate::recipient::{Recipient, RecipientKind};
use crate::secret::SecretBytes;

const PREFIX: &str = "AGE-PLUGIN-";

/// The identity of an age plugin, and what is sealed for it.
#[derive(Debug)]
pub struct PluginIdentity {
    name: String,
    line: SecretBytes,
    recipients: [Recipient; 1],
}

impl PluginIdentity {
    /// Reads a file with the identity of a plugin; `None` if it holds something else.
    ///
    /// # Errors
    /// [`IdentityError::TooLarge`], [`IdentityError::Several`], [`IdentityError::PluginName`] or
    /// [`IdentityError::PluginRecipient`].
    pub fn parse(file: &[u8]) -> Result<Option<Self>, IdentityError> {
        if file.len() > MAX_IDENTITY_BYTES {
            return Err(IdentityError::TooLarge);
        }
        let Ok(text) = std::str::from_utf8(file) else { return Ok(None) };
        let keys: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if !keys.iter().any(|line| line.starts_with(PREFIX)) {
            return Ok(None);
        }
        let [line] = keys.as_slice() else { return Err(IdentityError::Several) };
        let name = plugin_name(line).ok_or(IdentityError::PluginName)?;
        let mut recipients = text.lines().filter_map(recipient);
        let recipient = recipients.next().filter(|first| recipients.all(|other| other == *first));
        let recipient = recipient.ok_or(IdentityError::PluginRecipient)?;
        let line = SecretBytes::new(line.as_bytes().to_vec());
        Ok(Some(Self { name, line, recipients: [recipient] }))
    }

    /// The plugin's name: small letters, digits and `+-._`, so that `age-plugin-NAME` is the name of a file in whatever
    /// folder, and never a path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line that the plugin is told.
    pub fn line(&self) -> &SecretBytes {
        &self.line
    }

    /// What can be sealed to for the plugin to open.
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// The kind of the stanzas that are for the plugin.
    pub fn stanza_kind(&self) -> &'static str {
        let [recipient] = &self.recipients;
        match recipient.kind() {
            RecipientKind::MlKem768P256Tag => crate::recipient::ML_KEM_P256_TAG_KIND,
            _ => crate::recipient::P256_TAG_KIND,
        }
    }
}

fn plugin_name(line: &str) -> Option<String> {
    let prefix = bech32::prefix(line)?;
    let name = prefix.strip_prefix(PREFIX)?.strip_suffix('-')?.to_ascii_lowercase();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-._".contains(&byte);
    let named = !name.is_empty() && name.bytes().all(allowed);
    (named && bech32::decode(prefix, line).is_some()).then_some(name)
}

/// The recipient in a comment such as `# public key: age1…` of age-keygen or `#    Recipient: age1…` of other programs.
fn recipient(line: &str) -> Option<Recipient> {
    let (label, value) = line.strip_prefix('#')?.split_once(':')?;
    let label = label.trim();
    if !label.eq_ignore_ascii_case("recipient") && !label.eq_ignore_ascii_case("public key") {
        return None;
    }
    let recipient: Recipient = value.trim().parse().ok()?;
    matches!(recipient.kind(), RecipientKind::P256Tag | RecipientKind::MlKem768P256Tag).then_some(recipient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kem::{ML_KEM_SEED_BYTES, MlKemKey, P256Point};
    use crate::secret::Secret;

    const TAG: &str = "age1tag1qwe0kafsjrar4txm6heqnhpfuggzr0gvznz7fvygxrlq90u5mq2pysxtw6h";
    const LINE: &str = "AGE-PLUGIN-TAGTEST-1CXM4UC";

    fn parse(text: &str) -> Result<Option<PluginIdentity>, IdentityError> {
        PluginIdentity::parse(text.as_bytes())
    }

    #[test]
    fn files_of_plugins_are_told_from_others() {
        for comment in ["# recipient: ", "# public key: ", "#    Recipient: ", "#Recipient:"] {
            let identity = parse(&format!("#       Serial: 1\r\n{comment}{TAG}\r\n{LINE}\r\n")).unwrap().unwrap();
            assert_eq!((identity.name(), identity.stanza_kind()), ("tagtest", "p256tag"));
            assert_eq!(identity.line().expose(), LINE.as_bytes());
            assert_eq!(identity.recipients(), [TAG.parse().unwrap()]);
            assert!(!format!("{identity:?}").contains(LINE));
        }
        for other in ["", "AGE-SECRET-KEY-1", "-----BEGIN OPENSSH PRIVATE KEY-----", "# AGE-PLUGIN-X-1"] {
            assert!(parse(other).unwrap().is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let known = format!("# recipient: {TAG}\n");
        for (text, error) in [
            (format!("{known}{LINE}\n{LINE}\n"), IdentityError::Several),
            (format!("{known}AGE-SECRET-KEY-1X\n{LINE}\n"), IdentityError::Several),
            (format!("{known}{LINE}C"), IdentityError::PluginName),
            (
                format!("{known}{}", LINE.to_lowercase().replacen("age-plugin-", "AGE-PLUGIN-", 1)),
                IdentityError::PluginName,
            ),
            (format!("{known}AGE-PLUGIN-TAGTEST-"), IdentityError::PluginName),
            (LINE.to_owned(), IdentityError::PluginRecipient),
            (format!("# recipient: age1yubikey1qwe0\n{LINE}"), IdentityError::PluginRecipient),
            (format!("# recipient: {}x\n{LINE}", TAG), IdentityError::PluginRecipient),
        ] {
            assert_eq!(parse(&text).unwrap_err(), error, "{text}");
        }
    }

    /// RUSTSEC-2024-0433: a name with a slash in it ran any program.
    #[test]
    fn a_name_is_never_a_path() {
        for (name, taken) in [
            ("", false),
            ("X/../Y", false),
            ("../../TMP/X", false),
            ("X Y", false),
            ("X\\Y", false),
            ("X;Y", false),
            ("A1.B_C+D-E", true),
            ("..", true),
        ] {
            let line = bech32::encode(&format!("{PREFIX}{name}-"), b"data");
            let parsed = line.map(|line| parse(&format!("# recipient: {TAG}\n{}", line.as_str())));
            match parsed {
                Some(Ok(Some(identity))) => {
                    assert!(taken && identity.name() == name.to_lowercase(), "{name}");
                }
                Some(Err(error)) => assert_eq!((error, taken), (IdentityError::PluginName, false), "{name}"),
                Some(Ok(None)) => panic!("{name}"),
                // No such prefix exists in bech32.
                None => assert!(!taken, "{name}"),
            }
        }
    }

    /// Another point than the one of [`TAG`].
    fn point() -> P256Point {
        P256Point::from_compressed(&[[2].as_slice(), &[0; 32]].concat()).unwrap()
    }

    /// As an identity file of our own (`spec/identity-file.md`).
    #[test]
    fn a_file_of_exactly_64_kib_is_read() {
        let own = format!("# recipient: {TAG}\n{LINE}\n");
        let filled = |size: usize| format!("{}\n{own}", "#".repeat(size - 1 - own.len()));
        assert!(parse(&filled(MAX_IDENTITY_BYTES)).unwrap().is_some());
        assert_eq!(parse(&filled(MAX_IDENTITY_BYTES + 1)).unwrap_err(), IdentityError::TooLarge);
    }

    /// Twice the same is one; of two nobody knows which the plugin opens.
    #[test]
    fn a_file_names_exactly_one_recipient() {
        let file = |second: &str| format!("# recipient: {TAG}\n# public key: {second}\n{LINE}\n");
        assert_eq!(parse(&file(TAG)).unwrap().unwrap().recipients(), [TAG.parse().unwrap()]);
        let other = Recipient::from_p256(&point()).unwrap();
        assert_eq!(parse(&file(other.as_str())).unwrap_err(), IdentityError::PluginRecipient);
    }

    /// A plugin is told the stanzas of its recipient's kind, and no others.
    #[test]
    fn a_hybrid_recipient_has_its_own_kind_of_stanza() {
        let ml_kem = MlKemKey::from_seed(&Secret::new([7; ML_KEM_SEED_BYTES])).unwrap();
        let hybrid = Recipient::from_ml_kem_p256(&ml_kem, &point()).unwrap();
        let identity = parse(&format!("# recipient: {hybrid}\n{LINE}\n")).unwrap().unwrap();
        assert_eq!(identity.stanza_kind(), "mlkem768p256tag");
        assert_eq!(identity.recipients(), [hybrid]);
    }
}
