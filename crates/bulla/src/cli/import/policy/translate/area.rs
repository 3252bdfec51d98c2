//! What Vault's API lets somebody do where, and the action that it is here.
//!
//! A capability of Vault is often less than an action here: it tells what is new from what is there, one version from all.
//! Which paths look whether something is there, OpenBao's answers to each word alone have shown.

use super::Actions;
use std::collections::BTreeMap;

/// A part of a mount's API: what may be done there.
pub struct Area {
    /// Where it is; several places if one action here is all of them.
    prefixes: &'static [&'static str],
    suffix: &'static str,
    rights: &'static [Right],
}

/// An action here, and who in Vault may do as much.
struct Right {
    /// Each lets somebody do at least a part of it.
    words: &'static [&'static str],
    whole: Whole,
    action: &'static str,
    /// What it would permit beyond a part.
    beyond: &'static str,
}

/// When it is not only a part.
enum Whole {
    /// All of these words are there.
    Words(&'static [&'static str]),
    /// The path takes in all of this.
    Below(&'static str),
    /// Never.
    No,
}

const fn area(prefixes: &'static [&'static str], suffix: &'static str, rights: &'static [Right]) -> Area {
    Area { prefixes, suffix, rights }
}

/// One word is the whole of it.
const fn same(words: &'static [&'static str], action: &'static str) -> Right {
    Right { words, whole: Whole::Words(words), action, beyond: "" }
}

/// What needs the right to change something, whether it is there or not.
const fn update(action: &'static str) -> Right {
    same(&["update"], action)
}

/// What Vault tells apart by whether something is there.
const fn written(words: &'static [&'static str], action: &'static str) -> Right {
    let beyond = "create alone is for what is new, update and patch alone for what is there; the right to write here is for both";
    Right { words, whole: Whole::Words(&["create", "update"]), action, beyond }
}

const PUT: Right = written(&["create", "update", "patch"], "kv.put");
/// An engine without versions has no patch.
const PUT_1: Right = written(&["create", "update"], "kv.put");
const CONFIGURE: Right = written(&["create", "update", "patch"], "kv.configure");
const DELETE: Right = Right {
    words: &["delete"],
    whole: Whole::No,
    action: "kv.delete",
    beyond: "delete is for the newest version there; here it is for whichever version is named",
};
const DESTROY: Right = Right {
    words: &["update"],
    whole: Whole::No,
    action: "kv.destroy",
    beyond: "it leaves a secret's name and settings there; here the right to destroy is also that to end a secret whole",
};
const ENCRYPT: Right = Right {
    words: &["create", "update"],
    whole: Whole::Words(&["update"]),
    action: "transit.encrypt",
    beyond: "create alone encrypts by a key that is made with it; here it is the right to encrypt by keys that are there",
};
const EXPORT: Right = Right {
    words: &["read"],
    whole: Whole::Below("export/"),
    action: "transit.export",
    beyond: "it lets out keys for one use there; here an export lets out whatever the key is for",
};

/// A kv engine without versions.
pub const KV_1: &[Area] = &[area(
    &[""],
    "",
    &[same(&["read"], "kv.get"), PUT_1, same(&["list"], "kv.list"), same(&["delete"], "kv.destroy")],
)];

/// A kv engine with versions.
pub const KV_2: &[Area] = &[
    area(&["data/"], "", &[same(&["read"], "kv.get"), PUT, DELETE]),
    area(
        &["metadata/"],
        "",
        &[same(&["read"], "kv.inspect"), same(&["list"], "kv.list"), CONFIGURE, same(&["delete"], "kv.destroy")],
    ),
    area(&["delete/"], "", &[update("kv.delete")]),
    area(&["undelete/"], "", &[update("kv.undelete")]),
    area(&["destroy/"], "", &[DESTROY]),
];

/// A transit engine.
pub const TRANSIT: &[Area] = &[
    area(&["encrypt/"], "", &[ENCRYPT]),
    area(&["decrypt/"], "", &[update("transit.decrypt")]),
    area(&["rewrap/"], "", &[update("transit.rewrap")]),
    area(&["datakey/plaintext/"], "", &[update("transit.datakey")]),
    area(&["datakey/wrapped/"], "", &[update("transit.datakey-wrapped")]),
    area(&["sign/"], "", &[update("transit.sign")]),
    area(&["verify/"], "", &[update("transit.verify")]),
    area(&["hmac/"], "", &[update("transit.hmac")]),
    area(
        &["keys/"],
        "",
        &[
            same(&["read"], "transit.read"),
            same(&["list"], "transit.list"),
            update("transit.create"),
            same(&["delete"], "transit.delete"),
        ],
    ),
    area(&["keys/"], "/rotate", &[update("transit.rotate")]),
    area(&["keys/"], "/config", &[update("transit.configure")]),
    area(&["keys/"], "/import", &[update("transit.import")]),
    area(&["export/encryption-key/", "export/signing-key/", "export/hmac-key/"], "", &[EXPORT]),
    area(&["backup/"], "", &[same(&["read"], "transit.backup")]),
    area(&["restore/"], "", &[update("transit.restore")]),
];

impl Area {
    /// Which parts of what lies in the area a path means, and whether all below each; none if no part that a statement can
    /// name.
    pub fn find<'p>(&self, rest: &'p str, glob: bool) -> Vec<(&'p str, bool)> {
        self.prefixes.iter().filter_map(|prefix| find(prefix, self.suffix, rest, glob)).collect()
    }

    /// Every action.
    pub fn all(&self) -> (Actions, BTreeMap<&'static str, &'static str>) {
        (self.rights.iter().map(|right| right.action).collect(), BTreeMap::new())
    }

    /// The actions that these words are on this path, and those of which they are only a part, with what is beyond it.
    pub fn said(&self, words: &[String], rest: &str, glob: bool) -> (Actions, BTreeMap<&'static str, &'static str>) {
        let has = |word: &&str| words.iter().any(|known| known == word);
        let (mut actions, mut beyond) = (Actions::new(), BTreeMap::new());
        for right in self.rights.iter().filter(|right| right.words.iter().any(has)) {
            let whole = match right.whole {
                Whole::Words(words) => words.iter().all(has),
                Whole::Below(prefix) => glob && prefix.starts_with(rest),
                Whole::No => false,
            };
            if whole {
                actions.insert(right.action);
            } else {
                beyond.insert(right.action, right.beyond);
            }
        }
        (actions, beyond)
    }
}

fn find<'p>(prefix: &str, suffix: &str, rest: &'p str, glob: bool) -> Option<(&'p str, bool)> {
    if glob && prefix.starts_with(rest) {
        return Some(("", true));
    }
    // A listing of the whole is asked for with the slash or without.
    if !glob && suffix.is_empty() && !prefix.is_empty() && prefix.trim_end_matches('/') == rest {
        return Some(("", false));
    }
    let inside = rest.strip_prefix(prefix)?;
    match (suffix, glob) {
        ("", false) => Some((inside.strip_suffix('/').unwrap_or(inside), false)),
        ("", true) => inside.strip_suffix('/').map(|directory| (directory, true)),
        (suffix, false) => Some((inside.strip_suffix(suffix)?, false)),
        (suffix, true) => {
            let (key, begun) = inside.split_once('/')?;
            suffix.strip_prefix('/')?.starts_with(begun).then_some((key, false))
        }
    }
}
