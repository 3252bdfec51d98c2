//! Who else may get at a file that holds a secret: pure, over what the file system says of it. Whoever reads an identity, a
//! PIN or a passphrase asks here, of the file that it opened.
//!
//! Threat: another user of the machine. So such a file is its owner's alone, with one exception. Service managers hand
//! credentials over as files of root: systemd's `LoadCredential=` with an access list, which shows as a group that reads
//! (mode 0440), a Secret volume of Kubernetes with the pod's group (`fsGroup`). Nobody but root can have made such a file, and
//! the group is root's choice; a process that is root itself needs no group, so it is told of one that is there by mistake.

use std::fmt;

/// A group reads.
const GROUP_READS: u32 = 0o040;
/// Others do anything, or a group more than read.
const OPEN: u32 = 0o037;

/// Who else gets at the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposed {
    /// Everybody, or a group that does more than read.
    Others,
    /// A group reads it, and its owner is not root.
    Group,
    /// A group reads it, and this process is root.
    GroupBesideRoot,
}

/// Judges a file of this owner and mode, for a process of this effective user.
///
/// # Errors
/// [`Exposed`].
pub const fn judge(owner: u32, mode: u32, process: u32) -> Result<(), Exposed> {
    if mode & OPEN != 0 {
        Err(Exposed::Others)
    } else if mode & GROUP_READS == 0 {
        Ok(())
    } else if owner != 0 {
        Err(Exposed::Group)
    } else if process == 0 {
        Err(Exposed::GroupBesideRoot)
    } else {
        Ok(())
    }
}

impl Exposed {
    /// Who it is, in an error.
    pub const fn who(self) -> &'static str {
        match self {
            Self::Others => "others",
            Self::Group | Self::GroupBesideRoot => "its group",
        }
    }

    /// What to do about the file at `path`.
    pub fn hint(self, path: impl fmt::Display) -> String {
        match self {
            Self::Others => format!("chmod 600 {path}"),
            Self::Group => format!(
                "chmod 600 {path}; a group may only read what root owns, and only for a process that is not root (chmod 440, \
                 chown root)"
            ),
            Self::GroupBesideRoot => format!(
                "chmod 400 {path}; or, if it is meant for a service whose group this is, run this as the user of that service"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_what_is_roots_for_a_process_that_is_not_root() {
        const ROOT: u32 = 0;
        const SERVICE: u32 = 996;
        const SOMEBODY: u32 = 1000;
        for (owner, mode, process, judged) in [
            // Its owner's alone.
            (SERVICE, 0o600, SERVICE, Ok(())),
            (SERVICE, 0o400, SERVICE, Ok(())),
            (SERVICE, 0o700, SERVICE, Ok(())),
            (ROOT, 0o600, ROOT, Ok(())),
            (SOMEBODY, 0o600, ROOT, Ok(())),
            // As systemd and the kubelet hand it over.
            (ROOT, 0o440, SERVICE, Ok(())),
            (ROOT, 0o640, SERVICE, Ok(())),
            (ROOT, 0o040, SERVICE, Ok(())),
            (ROOT, 0o440, SOMEBODY, Ok(())),
            // Root needs no group, and who is not root chooses none.
            (ROOT, 0o440, ROOT, Err(Exposed::GroupBesideRoot)),
            (ROOT, 0o640, ROOT, Err(Exposed::GroupBesideRoot)),
            (SERVICE, 0o440, SERVICE, Err(Exposed::Group)),
            (SERVICE, 0o640, SERVICE, Err(Exposed::Group)),
            (SOMEBODY, 0o440, SERVICE, Err(Exposed::Group)),
            (SOMEBODY, 0o440, ROOT, Err(Exposed::Group)),
            // The overflow user, which an owner of another user namespace is seen as.
            (65534, 0o440, SERVICE, Err(Exposed::Group)),
            // Never write, never run, never others, whoever it is.
            (ROOT, 0o460, SERVICE, Err(Exposed::Others)),
            (ROOT, 0o420, SERVICE, Err(Exposed::Others)),
            (ROOT, 0o450, SERVICE, Err(Exposed::Others)),
            (ROOT, 0o444, SERVICE, Err(Exposed::Others)),
            (ROOT, 0o404, SERVICE, Err(Exposed::Others)),
            (ROOT, 0o442, SERVICE, Err(Exposed::Others)),
            (ROOT, 0o441, SERVICE, Err(Exposed::Others)),
            (SERVICE, 0o604, SERVICE, Err(Exposed::Others)),
            (ROOT, 0o644, ROOT, Err(Exposed::Others)),
        ] {
            assert_eq!(judge(owner, mode, process), judged, "{mode:o} of {owner} for {process}");
            // What is no right to read, write or run changes nothing.
            assert_eq!(judge(owner, 0o107_000 | mode, process), judged);
        }
    }

    #[test]
    fn every_bit_but_one_of_group_and_others_is_refused_for_everybody() {
        for mode in 0..=0o777 {
            for (owner, process) in [(0, 7), (7, 7), (0, 0), (7, 0)] {
                let own = mode & 0o077 == 0;
                let handed_over = mode & 0o077 == GROUP_READS && owner == 0 && process != 0;
                assert_eq!(
                    judge(owner, mode, process).is_ok(),
                    own || handed_over,
                    "{mode:o} of {owner} for {process}"
                );
            }
        }
    }

    #[test]
    fn a_hint_names_the_file_and_the_way_out() {
        for (exposed, says) in [
            (Exposed::Others, "chmod 600"),
            (Exposed::Group, "root owns"),
            (Exposed::GroupBesideRoot, "the user of that"),
        ] {
            let hint = exposed.hint("/etc/x");
            assert!(hint.contains(says) && hint.contains("/etc/x"), "{hint}");
        }
    }

    #[test]
    fn an_error_says_who_gets_at_the_file() {
        let all = [Exposed::Others, Exposed::Group, Exposed::GroupBesideRoot];
        assert_eq!(all.map(Exposed::who), ["others", "its group", "its group"]);
    }
}
