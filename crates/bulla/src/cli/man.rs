//! `bulla man`: manual pages, written from what the command line is made of.

use crate::exit::{Exit, Failure};
use crate::session::Session;
use clap::Args;
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

/// Write the manual pages
///
/// One page for each command: `man bulla-wrap-create` shows that of `bulla wrap create`. Pages that are there, of an
/// older version, are replaced.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder, such as /usr/local/share/man/man1; made if it is not there
    dir: PathBuf,
}

pub fn run(Man { dir }: &Man, session: &Session<'_>) -> Result<Exit, Failure> {
    let pages = pages().map_err(|error| Failure::new(Exit::Failed, format!("cannot make the pages: {error}")))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(|error| Failure::file("cannot make", dir, &error))?;
    for (name, page) in &pages {
        let path = dir.join(name);
        fs::write(&path, page).map_err(|error| Failure::file("cannot write", &path, &error))?;
    }
    session.screen.say(&format!("{} pages in {}", pages.len(), dir.display()));
    Ok(Exit::Ok)
}

/// All pages by the names of their files.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    super::all().into_iter().map(|(name, command)| Ok((format!("{}.1", title(&name)), page(&name, command)?))).collect()
}

/// A page is called as its command, in one word.
fn title(name: &str) -> String {
    name.replace(' ', "-")
}

fn page(name: &str, mut command: clap::Command) -> io::Result<Vec<u8>> {
    let usage = command.render_usage().to_string();
    let examples = command.get_after_help().map(ToString::to_string);
    let (options, verbs) = (command.get_arguments().next().is_some(), command.has_subcommands());
    let page =
        Page::new(command).title(title(name)).source(format!("Bulla {}", env!("CARGO_PKG_VERSION"))).manual("Bulla");
    let mut bytes = Vec::new();
    page.render_title(&mut bytes)?;
    page.render_name_section(&mut bytes)?;
    synopsis(&usage).to_writer(&mut bytes)?;
    page.render_description_section(&mut bytes)?;
    if options {
        page.render_options_section(&mut bytes)?;
    }
    if verbs {
        page.render_subcommands_section(&mut bytes)?;
    }
    end(name, examples.as_deref()).to_writer(&mut bytes)?;
    // In ASCII every formatter shows it, whatever the locale.
    let ascii = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    Ok(String::from_utf8_lossy(&bytes).chars().map(ascii).collect::<String>().into_bytes())
}

/// As `--help` has it. The library's own leaves out what stands behind an option.
fn synopsis(usage: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.control("nf", []);
    usage.trim_start_matches("Usage:").lines().for_each(|line| {
        roff.text([roman(line.trim())]);
    });
    roff.control("fi", []);
    roff
}

/// What follows the options.
fn end(name: &str, examples: Option<&str>) -> Roff {
    let mut roff = Roff::new();
    if let Some(examples) = examples {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("nf", []);
        examples.lines().skip(1).for_each(|line| {
            roff.text([roman(line.trim_start())]);
        });
        roff.control("fi", []);
    }
    let Some((above, _)) = name.rsplit_once(' ') else {
        roff.control("SH", ["EXIT STATUS"]);
        for (number, meaning) in Exit::ALL {
            roff.control("TP", []);
            roff.text([bold(number.to_string())]);
            roff.text([roman(meaning.trim())]);
        }
        return roff;
    };
    // What stands there is told once: options of the commands above, exit codes.
    roff.control("SH", ["SEE ALSO"]);
    let mut above = Some(above);
    let mut line = Vec::new();
    while let Some(name) = above {
        line.extend([bold(title(name)), roman(if name == "bulla" { "(1)" } else { "(1), " })]);
        above = name.rsplit_once(' ').map(|(above, _)| above);
    }
    roff.text(line);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_testkit::tools;
    use std::path::Path;
    use std::process::Command;

    fn written() -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        let pages = pages().unwrap();
        let write = |(name, page): &(String, Vec<u8>)| {
            let path = folder.path().join(name);
            fs::write(&path, page).unwrap();
            path
        };
        let paths = pages.iter().map(write).collect();
        (folder, paths)
    }

    #[test]
    fn every_command_has_a_page() {
        let pages = pages().unwrap();
        let text = |name: &str| {
            let (_, page) = pages.iter().find(|(found, _)| found == name).unwrap();
            String::from_utf8(page.clone()).unwrap()
        };
        assert_eq!(pages.len(), crate::cli::all().len());
        let main = text("bulla.1");
        for (number, _) in Exit::ALL {
            assert!(main.contains(&format!("\\fB{number}\\fR\n")), "exit {number}");
        }
        let create = text("bulla-wrap-create.1");
        assert!(create.contains("$ bulla wrap create") && create.contains("\\fBbulla\\-wrap\\fR(1), \\fBbulla\\fR(1)"));
        assert!(create.contains("\\-\\-expires") && !create.contains("\\-\\-identity"), "told in bulla(1)");
        assert!(main.contains("\\-\\-identity"));
        assert!(
            pages.iter().all(|(_, page)| page.is_ascii())
                && text("bulla-principal-show.1").contains("sha256:\\[u2026]")
        );
    }

    /// As `man` shows them: nothing that the formatter warns of.
    #[test]
    fn pages_are_formatted_without_a_warning() {
        let Some(groff) = tools::find("groff") else {
            bulla_testkit::skip!("pages_are_formatted_without_a_warning", "needs groff");
        };
        let (_folder, paths) = written();
        let format =
            |path: &Path| Command::new(&groff).args(["-man", "-Tutf8", "-ww", "-z"]).arg(path).output().unwrap();
        for path in &paths {
            let output = format(path);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && said.is_empty(), "{}: {said}", path.display());
        }
        let broken = paths[0].with_extension("broken");
        fs::write(&broken, ".TH X 1\n.SH NAME\nx\n.nosuchmacro\n").unwrap();
        assert!(!format(&broken).stderr.is_empty(), "a fault would be seen");
    }

    /// What `whatis` and `apropos` find: the name and what it does.
    #[test]
    fn pages_are_found_by_name() {
        let Some(lexgrog) = tools::find("lexgrog") else {
            bulla_testkit::skip!("pages_are_found_by_name", "needs lexgrog of man-db");
        };
        let (_folder, paths) = written();
        let output = Command::new(lexgrog).args(&paths).output().unwrap();
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{found}");
        assert_eq!(found.lines().count(), paths.len());
        assert!(found.contains("\"bulla-wrap-create - Encrypt something to somebody"), "{found}");
    }
}
