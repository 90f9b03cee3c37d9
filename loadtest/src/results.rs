//! `RESULTS.md`. `compare` writes the page; `chaos` and the benches each write a section of it between two markers. Each keeps the
//! text of the others.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::harness::machine::{Machine, today};

/// Its path from the top of the repository.
pub const PATH: &str = "loadtest/RESULTS.md";

/// Its path for a bench, which cargo does not run at the top of the repository.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PATH)
}

/// Writes the page and keeps the sections.
///
/// # Errors
/// When the file can't be read or written.
pub fn write_page(path: &Path, page: &str) -> io::Result<()> {
    let old = read(path)?;
    fs::write(path, with_page(&old, page))
}

/// Writes a section in its old place, or at the end.
///
/// # Errors
/// When the file can't be read or written.
pub fn write_section(path: &Path, name: &str, section: &str) -> io::Result<()> {
    let old = read(path)?;
    fs::write(path, with_section(&old, name, section))
}

/// The first line of a section: date, command, machine. Takes a second.
///
/// # Errors
/// When /proc can't be read.
pub fn preamble(command: &str) -> io::Result<String> {
    let Machine { cpu, cpus, memory, kernel, load, .. } = Machine::look()?;
    let date = today();
    Ok(format!("{date}, `{command}`, on {cpus} × {cpu}, {memory:.0} GiB, Linux {kernel}, load {load}\n"))
}

fn read(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

fn with_page(old: &str, page: &str) -> String {
    let mut text = format!("{}\n", page.trim_end());
    let mut rest = old;
    while let Some((name, at)) = next_marker(rest) {
        let begin = &rest[at..];
        let Some((inside, after)) = split(begin, name).map(|(_, inside, after)| (inside, after)) else {
            // A marker without its counterpart is ordinary text of the page.
            rest = &begin["<!-- ".len()..];
            continue;
        };
        text.push_str(&format!("\n{}{inside}{}\n", opening(name), closing(name)));
        rest = after;
    }
    text
}

fn with_section(old: &str, name: &str, section: &str) -> String {
    let (opening, closing) = (opening(name), closing(name));
    let section = format!("{opening}\n\n{}\n\n{closing}\n", section.trim());
    match split(old, name) {
        Some((before, _, after)) => format!("{before}{section}{}", after.strip_prefix('\n').unwrap_or(after)),
        None if old.trim().is_empty() => section,
        None => format!("{}\n\n{section}", old.trim_end()),
    }
}

fn opening(name: &str) -> String {
    format!("<!-- {name} -->")
}

fn closing(name: &str) -> String {
    format!("<!-- /{name} -->")
}

/// The next opening marker and its position.
fn next_marker(text: &str) -> Option<(&str, usize)> {
    text.match_indices("<!-- ").find_map(|(at, begin)| {
        let name = text[at + begin.len()..].split_once(" -->")?.0;
        (!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')).then_some((name, at))
    })
}

/// The text before, inside and after a section.
fn split<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (before, rest) = text.split_once(&opening(name))?;
    let (inside, after) = rest.split_once(&closing(name))?;
    Some((before, inside, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_sections_keep_each_other() {
        let page = with_page("", "# Page\n\nold\n");
        assert_eq!(page, "# Page\n\nold\n");
        let one = with_section(&page, "chaos", "## Chaos\n\none\n");
        assert_eq!(one, "# Page\n\nold\n\n<!-- chaos -->\n\n## Chaos\n\none\n\n<!-- /chaos -->\n");
        let two = with_section(&one, "picks", "fast");
        let picks = "\n<!-- picks -->\n\nfast\n\n<!-- /picks -->\n";
        assert_eq!(two, format!("{one}{picks}"));
        let new = with_page(&two, "# Page\n\nnew\n");
        assert_eq!(new, format!("# Page\n\nnew\n\n<!-- chaos -->\n\n## Chaos\n\none\n\n<!-- /chaos -->\n{picks}"));
        let again = with_section(&new, "chaos", "two");
        assert_eq!(again, format!("# Page\n\nnew\n\n<!-- chaos -->\n\ntwo\n\n<!-- /chaos -->\n{picks}"));
        assert_eq!(with_section(&again, "chaos", "two"), again);
    }

    #[test]
    fn a_marker_without_its_counterpart_is_text() {
        assert_eq!(with_page("<!-- a -->\n<!-- b -->x<!-- /b -->", "p"), "p\n\n<!-- b -->x<!-- /b -->\n");
    }

    #[test]
    fn a_section_may_come_first() {
        assert_eq!(with_section("", "a", "x"), "<!-- a -->\n\nx\n\n<!-- /a -->\n");
    }
}
