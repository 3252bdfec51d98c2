//! Files that hold a credential or an authority: read again whenever they are needed, since others change them. Authorities,
//! certificates and Vault's credentials are read beside the runtime by a [`Reader`], since they may lie on a file system that hangs.
//! Not held: files of clouds and of age, which the runtime reads, or its pool of threads: one that hangs there keeps the process
//! from ending by itself, or a thread of the runtime until it is back.

use super::{Class, ProviderError};
use bulla_crypto::digest::{framed, sha256};
use bulla_crypto::secret::SecretBytes;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

/// Largest file in bytes: a chain of certificates, or a token of a Kubernetes cluster, many times over.
pub const MAX_BYTES: u64 = 64 * 1024;
/// Largest file of authorities in bytes: all that a system knows, several times over.
pub const MAX_CA_BYTES: u64 = 2 * 1024 * 1024;
/// How long files are waited for. A disk takes milliseconds, and whoever looks has five seconds for all of it.
const LIMIT: Duration = Duration::from_secs(2);

/// Who reads files for one provider, one thing after the other. What hangs is given up, and keeps the place: so nothing piles
/// up behind it, and the next one who comes is told, at once: whoever looks needs several files, and waits for one that hangs
/// only once.
#[derive(Clone, Default)]
pub struct Reader {
    place: Arc<Mutex<()>>,
    /// When what is read now was begun, by whoever has the place.
    begun: Arc<std::sync::Mutex<Option<Instant>>>,
}

impl Reader {
    /// Does `work`, which reads files, on a thread of its own: one that hangs must not keep the process from ending, as a task
    /// of the runtime would.
    ///
    /// # Errors
    /// Those of `work`; [`Class::Unavailable`] if it takes too long.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        self.read_within(LIMIT, work).await
    }

    async fn read_within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let late = || {
            let limit = limit.as_secs_f32();
            let text = format!("a file was not read within {limit} s: is it on a file system that hangs?");
            Err(ProviderError::new(Class::Unavailable, text))
        };
        let begun = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        // Half of it tells as much, and no clock has to be read at the same moment as another.
        if begun.is_some_and(|begun| begun.elapsed() >= limit / 2) {
            return late();
        }
        timeout(limit, self.apart(work)).await.unwrap_or_else(|_| late())
    }

    /// As [`Reader::read`], for whoever waits as long as it takes.
    ///
    /// # Errors
    /// Those of `work`; [`Class::Unavailable`] if there is no thread to be had.
    pub async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let place = Arc::clone(&self.place).lock_owned().await;
        let begun = Begun::now(&self.begun);
        let (tell, told) = oneshot::channel();
        let thread = thread::Builder::new().name("files".to_owned()).spawn(move || {
            let done = work();
            // Whoever is told may come again at once.
            drop(begun);
            drop(place);
            drop(tell.send(done));
        });
        let broken = |_| ProviderError::new(Class::Unavailable, "reading files broke off");
        thread.map_err(|error| ProviderError::new(Class::Unavailable, format!("files cannot be read: {error}")))?;
        told.await.map_err(broken)?
    }
}

/// For as long as something is read.
struct Begun(Arc<std::sync::Mutex<Option<Instant>>>);

impl Begun {
    fn now(at: &Arc<std::sync::Mutex<Option<Instant>>>) -> Self {
        *at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Self(Arc::clone(at))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The one line of a file that holds a secret.
///
/// # Errors
/// [`Class::Config`], with the file.
pub fn line(path: &Path) -> Result<SecretBytes, ProviderError> {
    let mut bytes = whole(path, MAX_BYTES)?;
    let text = bytes.expose_mut();
    while text.last().is_some_and(u8::is_ascii_whitespace) {
        text.pop();
    }
    if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
        return Err(unfit(path, "it must hold one word and nothing else"));
    }
    Ok(bytes)
}

/// A digest over contents, which tells whether one of them has changed.
pub fn digest<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let fields: Vec<[u8; 32]> = contents.into_iter().map(|content| sha256(&[content])).collect();
    let fields: Vec<&[u8]> = fields.iter().map(<[u8; 32]>::as_slice).collect();
    sha256(&[&framed(&fields)])
}

/// A file of at most so many bytes.
///
/// # Errors
/// As [`line`].
pub fn whole(path: &Path, limit: u64) -> Result<SecretBytes, ProviderError> {
    let failed = |error: std::io::Error| unfit(path, &error.to_string());
    // A pipe would be waited for.
    let length = std::fs::metadata(path).and_then(|about| match about.is_file() {
        true => Ok(about.len()),
        false => Err(std::io::Error::other("it is not a file")),
    });
    let length = length.map_err(failed)?;
    if length > limit {
        return Err(unfit(path, &format!("it has more than {limit} bytes")));
    }
    let room = usize::try_from(length).unwrap_or_default().saturating_add(1);
    let mut bytes = SecretBytes::new(vec![0; room]);
    let mut file = File::open(path).map_err(failed)?;
    let mut filled = 0;
    // Into room that is there: a vector that grows by itself leaves a copy behind.
    while let Some(rest) = bytes.expose_mut().get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if filled == room {
        return Err(unfit(path, "it grew while it was read; it is read again"));
    }
    bytes.expose_mut().truncate(filled);
    Ok(bytes)
}

fn unfit(path: &Path, why: &str) -> ProviderError {
    ProviderError::new(Class::Config, format!("cannot use {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            line(&path).map(|line| line.expose().clone())
        };
        assert_eq!(read(b"s.canary\r\n\n").unwrap(), b"s.canary");
        assert_eq!(read(&[b'a'; 65536]).unwrap().len(), 65536);
        for bad in [&b""[..], b"\n", b"s.canary s.canary", b"s.can\nary", b" s.canary", &[0xff], &[b'a'; 65537]] {
            let error = read(bad).unwrap_err();
            assert!(error.class == Class::Config && error.text.contains("token"), "{error}");
            assert!(!error.text.contains("canary"), "{error}");
        }
        assert!(line(&folder.path().join("none")).is_err());
        // One that nobody writes into would be waited for.
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for other in [pipe.as_path(), folder.path()] {
            let error = line(other).unwrap_err();
            assert!(error.class == Class::Config && error.text.contains("not a file"), "{error}");
        }
    }

    #[test]
    fn a_changed_content_has_another_digest() {
        let of = |a: &str, b: &str| digest([a.as_bytes(), b.as_bytes()]);
        assert_eq!(of("one", "two"), of("one", "two"));
        assert_ne!(of("one", "two"), of("one", "three"));
        assert_ne!(of("one", "two"), of("onet", "wo"));
    }

    #[tokio::test]
    async fn a_file_system_that_hangs_takes_one_thread_and_no_more() {
        let (reader, limit) = (Reader::default(), Duration::from_millis(50));
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let class = |done: Result<(), ProviderError>| done.unwrap_err().class;
        let stuck = reader.read_within(limit, move || hangs.recv().or(Ok(())));
        assert_eq!(class(stuck.await), Class::Unavailable);
        // Nothing is begun behind it, and nobody waits for it again.
        let began = reader.read_within(limit, || Err(ProviderError::new(Class::Config, "it began")));
        let at_once = timeout(Duration::ZERO, began).await.unwrap();
        assert_eq!(class(at_once), Class::Unavailable);
        drop(release);
        assert_eq!(reader.read(|| Ok(7)).await.unwrap(), 7);
        assert_eq!(class(reader.read(|| Err(ProviderError::new(Class::Config, "no"))).await), Class::Config);
    }
}
