//! Modules: the vendor's library that talks to a token, loaded into this process.
//!
//! A library is initialised once for the whole process and not unloaded: its state is global by PKCS#11's own rules
//! (`C_Initialize`), and other holders of keys may be using it.
//!
//! Held: a library that hangs keeps nobody waiting who uses another one. Not held: one that hangs while the system's loader runs
//! its constructors, which loads one library at a time.

use crate::error::{TokenError, tried};
use crate::uri::{ModuleName, TokenUri};
use crate::wait::within;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::slot::{Slot, TokenInfo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where modules lie when only their name is given.
const FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/pkcs11",
    "/usr/lib/aarch64-linux-gnu/pkcs11",
    "/usr/lib64/pkcs11",
    "/usr/lib/pkcs11",
    "/usr/lib/softhsm",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];

/// How many may wait for one module's tokens at once: whoever gave one up that hangs leaves a thread behind, and comes again.
const WAITING: usize = 8;

/// All modules that this process was asked for, by the path that was given, and by that at which they lie. It is held for a moment alone.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Library>>> = Mutex::new(BTreeMap::new());

/// One module of this process.
#[derive(Default)]
struct Library {
    /// Once it was loaded. Held while that is done, which may take for ever.
    context: Mutex<Option<Pkcs11>>,
    waiting: AtomicUsize,
}

impl Library {
    fn of(path: &Path) -> Arc<Self> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(modules.entry(path.to_owned()).or_default())
    }

    /// A place among those who wait for it, even if there is none left.
    fn forced(self: Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self)
    }

    /// A place among those who wait for it, if there is one.
    fn place(self: Arc<Self>) -> Option<Waiting> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        // It is given back even if it is one too many.
        let place = Waiting(self);
        (before < WAITING).then_some(place)
    }
}

/// A place among those who wait for a module.
pub(crate) struct Waiting(Arc<Library>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What names one token as long as it exists: slots change when it is plugged in again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenId {
    pub label: String,
    pub serial: String,
    pub model: String,
    pub manufacturer: String,
}

impl TokenId {
    fn of(info: &TokenInfo) -> Self {
        Self {
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            model: info.model().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
        }
    }

    fn fits(&self, slot: Slot, uri: &TokenUri) -> bool {
        let same = |wanted: &Option<String>, found: &String| wanted.as_ref().is_none_or(|wanted| wanted == found);
        same(&uri.token, &self.label)
            && same(&uri.serial, &self.serial)
            && same(&uri.model, &self.model)
            && same(&uri.manufacturer, &self.manufacturer)
            && uri.slot_id.is_none_or(|wanted| wanted == slot.id())
    }
}

/// A loaded module.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    pub path: PathBuf,
    context: Pkcs11,
}

impl Module {
    /// The module that a URI names, and the one token that is as the URI says. A library may look for readers over a network, or
    /// wait for a program that hangs, so it has `limit` for all of it.
    pub fn with_token(uri: &TokenUri, limit: Duration) -> Result<(Self, TokenId), TokenError> {
        let (named, uri) = (path_of(uri)?, uri.clone());
        let hangs = || TokenError::TimedOut { who: named.display().to_string(), what: "show its tokens", limit };
        let place = Library::of(&named).place().ok_or_else(hangs)?;
        let found = within(limit, move || {
            let found = Self::with_token_here(&uri);
            drop(place);
            found
        });
        found.unwrap_or_else(|| Err(hangs()))
    }

    /// As [`Module::with_token`], on this thread and as long as it takes.
    pub fn with_token_here(uri: &TokenUri) -> Result<(Self, TokenId), TokenError> {
        let module = Self::load(path_of(uri)?)?;
        let (_, id) = module.token(uri)?;
        Ok((module, id))
    }

    /// Loads a module, or takes it as it was loaded before.
    fn load(path: PathBuf) -> Result<Self, TokenError> {
        // One library has many spellings, of links and folders, and is loaded and initialised once. Where it lies is asked here, on
        // a thread that may hang; whoever only waits for it counts by the spelling that he has.
        let library = Library::of(&path.canonicalize().unwrap_or_else(|_| path.clone()));
        let mut loaded = library.context.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = loaded.as_ref() {
            return Ok(Self { path, context: context.clone() });
        }
        let context = load(&path).map_err(|cause| TokenError::Module { path: path.clone(), cause })?;
        *loaded = Some(context.clone());
        Ok(Self { path, context })
    }

    /// The one token that is as the URI says.
    fn token(&self, uri: &TokenUri) -> Result<(Slot, TokenId), TokenError> {
        let all = self.tokens()?;
        let mut fitting: Vec<_> = all.iter().filter(|(slot, id)| id.fits(*slot, uri)).cloned().collect();
        match (fitting.pop(), fitting.as_slice()) {
            (Some(one), []) => Ok(one),
            (None, _) => {
                let mut there: Vec<_> = all.into_iter().map(|(_, id)| id.label).collect();
                there.sort();
                Err(TokenError::NoToken { there })
            }
            (Some(last), others) => {
                let shown = others.iter().chain([&last]).map(|(_, id)| format!("{} (serial {})", id.label, id.serial));
                Err(TokenError::SeveralTokens { there: shown.collect() })
            }
        }
    }

    /// Where that very token is now.
    pub fn slot_of(&self, token: &TokenId) -> Result<Slot, TokenError> {
        let mut found = self.tokens()?.into_iter().filter(|(_, id)| id == token).map(|(slot, _)| slot);
        let slot = found.next().ok_or(TokenError::NoToken { there: Vec::new() })?;
        // Two that say the same of themselves cannot be told apart once they were plugged in again, and the PIN of one must not
        // reach the other.
        if found.next().is_some() {
            let shown = format!("{} (serial {})", token.label, token.serial);
            return Err(TokenError::SeveralTokens { there: vec![shown.clone(), shown] });
        }
        Ok(slot)
    }

    fn tokens(&self) -> Result<Vec<(Slot, TokenId)>, TokenError> {
        let slots = self.context.get_slots_with_token().map_err(tried("list its slots"))?;
        let mut tokens = Vec::new();
        for slot in slots {
            // A token that is pulled out meanwhile is none.
            if let Ok(info) = self.context.get_token_info(slot)
                && info.token_initialized()
            {
                tokens.push((slot, TokenId::of(&info)));
            }
        }
        Ok(tokens)
    }

    /// What the token says about itself now.
    pub fn info(&self, slot: Slot) -> Result<TokenInfo, TokenError> {
        self.context.get_token_info(slot).map_err(tried("describe itself"))
    }

    /// Refuses a token that lacks a mechanism, before anything is tried with it.
    pub fn demand(
        &self,
        slot: Slot,
        (wanted, name): (MechanismType, &'static str),
        purpose: &'static str,
    ) -> Result<(), TokenError> {
        let there = self.context.get_mechanism_list(slot).map_err(tried("list what it can do"))?;
        if there.contains(&wanted) {
            return Ok(());
        }
        Err(TokenError::Mechanism { token: self.info(slot)?.label().to_owned(), name, purpose })
    }

    /// The place of a thread that was given up while it waits for this module. While too many do, nobody else begins.
    pub fn given_up(&self) -> Waiting {
        Library::of(&self.path).forced()
    }

    /// The functions of the module.
    pub fn context(&self) -> &Pkcs11 {
        &self.context
    }
}

fn path_of(uri: &TokenUri) -> Result<PathBuf, TokenError> {
    match &uri.module {
        None => Err(TokenError::NoModule),
        Some(ModuleName::Path(path)) => Ok(path.clone()),
        Some(ModuleName::Name(name)) => find(name).ok_or_else(|| TokenError::ModuleNotFound { name: name.clone() }),
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let spellings = [name.to_owned(), format!("{name}.so"), format!("lib{name}.so")];
    let mut all = FOLDERS.iter().flat_map(|folder| spellings.iter().map(move |file| Path::new(folder).join(file)));
    all.find(|path| path.is_file())
}

fn load(path: &Path) -> Result<Pkcs11, CryptokiError> {
    let context = Pkcs11::new(path)?;
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Another part of this process did it, or the same library lies under two paths.
        Ok(()) | Err(CryptokiError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(context),
        Err(error) => Err(error),
    }
}
