//! Files of any size under a transit key (`spec/transit.md`): an age file whose file key is a data key.

use crate::builder::Client;
use crate::error::ClientError;
use bulla_crypto::BoxFuture;
use bulla_crypto::envelope::{self, Decrypter, FileKey, OpenError, SealError, Stanza, TransitStanza};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{Decrypt, DecryptItem, NewDatakey};
use bulla_wire::encoding::{base64url, base64url_decode};
use bulla_wire::name::Name;
use std::io::{self, BufRead, Read, Write};
use std::sync::{Mutex, PoisonError};

/// Length of an age file key in bytes.
const FILE_KEY_BYTES: u32 = 16;
/// What the data key of a file is made for: it is asked for as such, and as nothing else.
const FILE: &[u8] = b"bulla-transit-v1";

impl Client {
    /// Encrypts all that `plaintext` gives into `file`, with a data key of this transit key. The cluster sees neither.
    /// Gives the number of bytes; after an error, what was written does not open.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_encrypt_file(
        &self,
        key: &Name,
        plaintext: impl Read,
        file: impl Write,
    ) -> Result<u64, ClientError> {
        let body = NewDatakey { bytes: FILE_KEY_BYTES, associated_data: Some(base64url(FILE)) };
        let made = self.transit_datakey(key, &body).await?;
        let malformed = || ClientError::contradiction("the data key is malformed");
        let file_key = base64url_decode(&made.plaintext).map(SecretBytes::new);
        let file_key = file_key.and_then(|bytes| FileKey::from_slice(bytes.expose())).ok_or_else(malformed)?;
        let wrapped = made.ciphertext.parse().map_err(|_| malformed())?;
        let stanza = TransitStanza { key: key.clone(), wrapped };
        envelope::seal_under(&file_key, &stanza.stanza(), plaintext, file).map_err(|error| match error {
            SealError::Io(cause) => unwritten(cause),
            error => ClientError::Seal(error),
        })
    }

    /// Decrypts what [`Client::transit_encrypt_file`] made, by the key that its header names; gives that key and its
    /// version. Whoever can replace the file chooses the key, so name the one that you mean: a file under another is
    /// refused before anything is asked.
    ///
    /// **`content` receives true bytes, but after an error perhaps not all of them.**
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn transit_decrypt_file(
        &self,
        key: Option<&Name>,
        file: impl BufRead,
        content: impl Write,
    ) -> Result<(Name, u32), ClientError> {
        let transit = Transit { client: self, key, came: Mutex::new(None) };
        let opened = envelope::open_to(&[&transit], file, content).await;
        let came = transit.came.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (opened, came) {
            (Ok(_), Some(Ok(by))) => Ok(by),
            (Ok(_), None) => Err(ClientError::contradiction("a file opened by no key")),
            (_, Some(Err(failure))) => Err(failure),
            (Err(OpenError::Io(cause)), _) => Err(unwritten(cause)),
            (Err(OpenError::NoMatch), _) => Err(ClientError::input(
                "the file is not encrypted under a transit key",
                "give a file that `bulla encrypt` made; `bulla open` and `age -d` open others",
            )),
            (Err(error), _) => Err(error.into()),
        }
    }
}

fn unwritten(cause: io::Error) -> ClientError {
    ClientError::Io { what: "cannot read the file or write its other form", path: None, cause }
}

/// Asks the cluster for file keys.
struct Transit<'a> {
    client: &'a Client,
    /// The only key that does.
    key: Option<&'a Name>,
    /// Which key and version gave one, or why none did: more than an envelope's error can tell.
    came: Mutex<Option<Result<(Name, u32), ClientError>>>,
}

impl Transit<'_> {
    fn came(&self, result: Result<(Name, u32), ClientError>) {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    async fn file_key(&self, stanzas: &[Stanza]) -> Result<Option<FileKey>, OpenError> {
        let Some(TransitStanza { key, wrapped }) = TransitStanza::find(stanzas)? else { return Ok(None) };
        if let Some(meant) = self.key.filter(|meant| **meant != key) {
            self.came(Err(ClientError::input(
                format!("the file is encrypted under {key}, not {meant}"),
                "somebody may have put another file there; name that key if it is the one that you mean",
            )));
            return Err(OpenError::Key("it is under another key".into()));
        }
        let item = DecryptItem { ciphertext: wrapped.to_string(), associated_data: Some(base64url(FILE)) };
        match self.client.transit_decrypt(&key, &Decrypt { items: vec![item] }).await {
            Ok(plaintexts) => {
                let text = plaintexts.items.into_iter().next().and_then(|item| item.plaintext);
                let bytes = text.and_then(|text| base64url_decode(&text)).map(SecretBytes::new);
                let file_key = bytes.and_then(|bytes| FileKey::from_slice(bytes.expose()));
                self.came(Ok((key, wrapped.version)));
                file_key.map(Some).ok_or(OpenError::Header("the data key in the header is no file key"))
            }
            Err(error) => {
                self.came(Err(error));
                Err(OpenError::Key("the cluster did not decrypt the data key".into()))
            }
        }
    }
}

impl Decrypter for Transit<'_> {
    /// Nothing is sealed to a cluster by a recipient; its keys are named by the header.
    fn recipients(&self) -> &[Recipient] {
        &[]
    }

    fn unwrap_file_key<'a>(&'a self, stanzas: &'a [Stanza]) -> BoxFuture<'a, Result<Option<FileKey>, OpenError>> {
        Box::pin(self.file_key(stanzas))
    }
}
