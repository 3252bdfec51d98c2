//! What it means, seen on a server's machine.

use super::Check;
use crate::exit::Failure;
use bulla_client::io_hint;
use bulla_server::sink::Report;
use std::io;
use std::path::{Path, PathBuf};

const MIB: u64 = 1024 * 1024;
/// Below this the audit log soon takes no more lines, and the server answers nothing then.
const SPACE_FAIL: u64 = 100 * MIB;
/// Below this somebody should make room: a busy server writes it in a day.
const SPACE_WARN: u64 = 1024 * MIB;
/// Or below this part of the disk, in percent.
const SPACE_PERCENT: u64 = 5;
/// Findings of the audit log that are told here; `bulla audit verify` tells all.
const FINDINGS: usize = 3;
/// Files that are named in one line.
const SHOWN_FILES: usize = 5;

/// A part of the configuration, tried as by a start.
pub fn part(name: &'static str, failure: Option<Failure>) -> Check {
    failure.map_or_else(|| Check::ok(name, "fit for a start"), |failure| Check::failed(name, &failure))
}

/// A file of the data directory.
#[derive(Debug)]
pub struct Seen {
    pub path: PathBuf,
    pub owner: u32,
}

/// A file that another user made, as by a start as root, stops the server when it writes there.
pub fn owners(data: &Path, owner: u32, files: &[Seen], unread: Option<&io::Error>) -> Check {
    let name = "files";
    if let Some(error) = unread {
        return Check::fail(name, format!("cannot look into {}: {error}", data.display()), io_hint(error.kind()));
    }
    let others: Vec<_> = files.iter().filter(|seen| seen.owner != owner).collect();
    if others.is_empty() {
        return Check::ok(name, format!("all of the one user {owner}"));
    }
    let shown: Vec<_> =
        others.iter().take(SHOWN_FILES).map(|seen| format!("{} of {}", seen.path.display(), seen.owner)).collect();
    let left = others.len().saturating_sub(shown.len());
    let more = if left > 0 { format!(" and {left} more") } else { String::new() };
    Check::fail(
        name,
        format!("the directory is of user {owner}, but {}{more}", shown.join(", ")),
        format!("chown -R {owner} {}", data.display()),
    )
}

/// What of a cluster lies where a server would look for it.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    pub store: bool,
    pub key: bool,
    pub audit: bool,
}

/// What a start would make of it. It asks for nothing, so a directory that was not meant is a new server's.
pub fn left(data: &Path, left: Left) -> Check {
    let name = "store";
    let path = data.display();
    match left {
        Left { store: true, key: true, audit: true } => {
            Check::ok(name, format!("{path} has a store, a node key and a log"))
        }
        Left { store: true, key: false, audit: false } => Check::warn(
            name,
            format!("{path} has a store, and neither node.key nor an audit log beside it"),
            "put both back: without the log a start needs --accept-audit-loss, and clients refuse the new key that it makes",
        ),
        Left { store: true, audit: false, .. } => Check::warn(
            name,
            format!("{path} has a store and no audit log beside it: a start refuses if the store knows of one"),
            "put the log back; without it a start needs --accept-audit-loss, and k admins' consent",
        ),
        Left { store: true, key: false, .. } => Check::warn(
            name,
            format!("{path} has a store and no node.key: a start makes another, which clients refuse"),
            "put it back; without it the log of the start tells how k admins take the new one in",
        ),
        Left { store: false, audit: true, .. } => Check::fail(
            name,
            format!("{path} has an audit log and no store"),
            "put a snapshot back with `bulla snapshot restore`, or begin with an empty directory",
        ),
        Left { store: false, .. } => Check::warn(
            name,
            format!("{path} has no store: a start makes an empty one"),
            "check --data, unless a new cluster is to be made",
        ),
    }
}

/// Room on a disk.
#[derive(Debug)]
pub struct Space {
    pub path: PathBuf,
    pub free: u64,
    pub total: u64,
}

pub fn space(name: &'static str, found: &io::Result<Space>) -> Check {
    let Space { path, free, total } = match found {
        Ok(space) => space,
        Err(error) => return Check::fail(name, format!("cannot ask for its room: {error}"), io_hint(error.kind())),
    };
    let shown = format!("{} MiB free of {} at {}", free / MIB, total / MIB, path.display());
    let hint = "make room, or move the directory to a larger disk; the server answers nothing while its audit log takes no lines";
    if *free < SPACE_FAIL {
        Check::fail(name, shown, hint)
    } else if *free < SPACE_WARN || free.saturating_mul(100) < total.saturating_mul(SPACE_PERCENT) {
        Check::warn(name, shown, hint)
    } else {
        Check::ok(name, shown)
    }
}

/// `None` if the log goes where it cannot be read again.
pub fn audit(verified: Option<io::Result<Report>>) -> Check {
    let name = "audit log";
    match verified {
        None => Check::ok(name, "not looked at: it goes to standard output or a pipe"),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Check::ok(name, "none yet"),
        Some(Err(error)) => Check::fail(name, format!("cannot be read: {error}"), io_hint(error.kind())),
        Some(Ok(report)) if report.is_sound() => {
            Check::ok(name, format!("sound: {} lines in {} files", report.lines, report.files))
        }
        Some(Ok(report)) => {
            let shown: Vec<_> = report.findings.iter().take(FINDINGS).map(ToString::to_string).collect();
            let hint = "`bulla audit verify --file PATH` tells all; put back the files as the server wrote them";
            Check::fail(name, format!("{} findings: {}", report.findings.len(), shown.join("; ")), hint)
        }
    }
}

/// What stands in `/proc/swaps`: a heading, and a line for each area. Areas in compressed memory are no disk.
pub fn swap(text: Option<&str>) -> Check {
    let name = "swap";
    let Some(text) = text else { return Check::ok(name, "not looked at: this system has no /proc/swaps") };
    let areas = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let disks: Vec<_> = areas.filter(|area| !area.starts_with("/dev/zram")).collect();
    if disks.is_empty() {
        return Check::ok(name, "none on a disk");
    }
    let found = format!("{}: keys in memory may be written there", disks.join(", "));
    Check::warn(name, found, "turn it off with `swapoff -a` and in /etc/fstab, or encrypt it with a key of each boot")
}

#[cfg(test)]
mod tests {
    use super::super::AGAIN;
    use super::super::Verdict::{self, Fail, Ok as Fine, Warn};
    use super::*;

    fn verdict(check: &Check) -> Verdict {
        assert_eq!(check.hint.is_none(), check.verdict == Fine, "{check:?}");
        check.verdict
    }

    #[test]
    fn what_is_left_of_a_cluster() {
        let check = |store, key, audit| left(Path::new("/data"), Left { store, key, audit });
        let verdicts = [
            (check(true, true, true), Fine),
            (check(true, true, false), Warn),
            (check(true, false, true), Warn),
            (check(false, true, true), Fail),
            (check(false, true, false), Warn),
            (check(false, false, false), Warn),
        ];
        for (check, expected) in verdicts {
            assert_eq!(verdict(&check), expected, "{check:?}");
        }
        // Whatever is missing is named.
        for (key, audit) in [(true, false), (false, true), (false, false)] {
            let found = check(true, key, audit).found;
            assert_eq!((found.contains("node.key"), found.contains("audit log")), (!key, !audit), "{found}");
        }
    }

    #[test]
    fn room_on_disks() {
        let of = |free, total| verdict(&space("data disk", &Ok(Space { path: "/x".into(), free, total })));
        let gib = 1024 * MIB;
        assert_eq!(of(100 * MIB - 1, 100 * gib), Fail);
        assert_eq!(of(100 * MIB, gib), Warn);
        assert_eq!(of(gib - 1, 2 * gib), Warn);
        assert_eq!(of(gib, 2 * gib), Fine);
        assert_eq!(of(4 * gib, 100 * gib), Warn);
        assert_eq!(of(5 * gib, 100 * gib), Fine);
        assert_eq!(verdict(&space("data disk", &Err(io::ErrorKind::PermissionDenied.into()))), Fail);
    }

    #[test]
    fn swap_on_a_disk_is_told() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        let of = |lines: &str| swap(Some(&format!("{heading}{lines}")));
        assert_eq!(verdict(&of("")), Fine);
        assert_eq!(verdict(&of("/dev/zram0  partition 4194300 0 100\n")), Fine);
        let disk =
            of("/dev/zram0 partition 1 0 100\n/dev/dm-1                               partition\t8388604\t\t0\t\t-2\n");
        assert_eq!(verdict(&disk), Warn);
        assert!(disk.found.starts_with("/dev/dm-1:"), "{disk:?}");
        assert_eq!(verdict(&swap(None)), Fine);
    }

    #[test]
    fn files_of_others_are_named() {
        let seen = |path: &str, owner| Seen { path: path.into(), owner };
        let data = Path::new("/d");
        assert_eq!(verdict(&owners(data, 7, &[seen("/d/a", 7)], None)), Fine);
        let files: Vec<_> = (0..9).map(|n| seen(&format!("/d/{n}"), 0)).collect();
        let check = owners(data, 7, &files, None);
        assert_eq!(verdict(&check), Fail);
        assert!(check.found.contains("/d/0 of 0") && check.found.ends_with("and 4 more"), "{check:?}");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(verdict(&owners(data, 7, &[], Some(&denied))), Fail);
    }

    #[test]
    fn the_log_where_there_is_one() {
        assert_eq!(verdict(&audit(None)), Fine);
        assert_eq!(verdict(&audit(Some(Err(io::ErrorKind::NotFound.into())))), Fine);
        assert_eq!(verdict(&audit(Some(Err(io::ErrorKind::PermissionDenied.into())))), Fail);
        assert_eq!(verdict(&audit(Some(Ok(Report::default())))), Fine);
        assert_eq!(verdict(&part("webhook", Some(Failure::usage("no")))), Fail);
        assert_eq!(part("webhook", Some(Failure::usage("no"))).hint.as_deref(), Some(AGAIN));
    }
}
