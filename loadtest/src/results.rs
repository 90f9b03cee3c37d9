//! `RESULTS.md`, which two commands write: `compare` the page, `chaos` a section of it between markers. Each keeps the other's.

use std::fs;
use std::io;
use std::path::Path;

const BEGIN: &str = "<!-- chaos -->";
const END: &str = "<!-- /chaos -->";

/// Writes the page, and puts the section back that is there.
pub(crate) fn write_page(path: &Path, page: &str) -> io::Result<()> {
    let old = read(path)?;
    fs::write(path, with_page(&old, page))
}

/// Writes the section, in its old place or else at the end.
pub(crate) fn write_section(path: &Path, section: &str) -> io::Result<()> {
    let old = read(path)?;
    fs::write(path, with_section(&old, section))
}

fn read(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

fn with_page(old: &str, page: &str) -> String {
    match split(old) {
        Some((_, section, _)) => format!("{}\n\n{BEGIN}{section}{END}\n", page.trim_end()),
        None => page.to_owned(),
    }
}

fn with_section(old: &str, section: &str) -> String {
    let section = section.trim();
    let (before, after) = split(old).map_or((old, ""), |(before, _, after)| (before, after));
    let gap = if before.trim().is_empty() { "" } else { "\n\n" };
    let after = after.trim();
    let rest = if after.is_empty() { String::new() } else { format!("\n{after}\n") };
    format!("{}{gap}{BEGIN}\n\n{section}\n\n{END}\n{rest}", before.trim_end())
}

/// Before the section, its inside, after it. A marker without its counterpart is text.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (inside, after) = rest.split_once(END)?;
    Some((before, inside, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_keeps_what_the_other_one_wrote() {
        let page = with_page("", "# Page\n\nold\n");
        assert_eq!(page, "# Page\n\nold\n");
        let both = with_section(&page, "## Chaos\n\none\n");
        assert_eq!(both, "# Page\n\nold\n\n<!-- chaos -->\n\n## Chaos\n\none\n\n<!-- /chaos -->\n");
        let both = with_page(&both, "# Page\n\nnew\n");
        assert_eq!(both, "# Page\n\nnew\n\n<!-- chaos -->\n\n## Chaos\n\none\n\n<!-- /chaos -->\n");
        let both = with_section(&both, "## Chaos\n\ntwo");
        assert_eq!(both, "# Page\n\nnew\n\n<!-- chaos -->\n\n## Chaos\n\ntwo\n\n<!-- /chaos -->\n");
    }

    #[test]
    fn the_section_may_come_first() {
        let alone = with_section("", "## Chaos");
        assert_eq!(alone, "<!-- chaos -->\n\n## Chaos\n\n<!-- /chaos -->\n");
        assert_eq!(with_page(&alone, "# Page\n"), "# Page\n\n<!-- chaos -->\n\n## Chaos\n\n<!-- /chaos -->\n");
        let text = with_section("before <!-- chaos -->x<!-- /chaos -->\nafter\n", "new");
        assert_eq!(text, "before\n\n<!-- chaos -->\n\nnew\n\n<!-- /chaos -->\n\nafter\n");
    }
}
