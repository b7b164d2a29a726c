//! Takes `--ipcdisable` out of the Geth container.
//!
//! Without its IPC socket Geth cannot be peered, and together with `GETH_IPCPATH` the flag makes Geth exit, whether its
//! value is true or false (`CheckExclusive`, internal/flags/helpers.go, v1.17.5). The pod asks for peering, so the flag goes,
//! and a warning says so. It may stand anywhere in a script, in a variable or a here-document too; so it is looked
//! for in the text and not in the words. The variables that a script refers to may hold it as well. The variable
//! `GETH_IPCDISABLE` is the same flag and goes too. A script that is a file of the image or of a ConfigMap, and `envFrom`,
//! cannot be seen from here.

use serde_json::json;

use super::geth::Geth;
use super::patch::{Edit, Misshapen, place};
use super::{cmdline, env, text};

const FLAG: &str = "ipcdisable";

/// Takes the flag out of command, arguments and variables of the Geth container.
pub(super) fn remove(edit: &mut Edit<'_>, geth: &Geth<'_>, warnings: &mut Vec<String>) -> Result<(), Misshapen> {
    let index = geth.index.to_string();
    let mut found = Vec::new();
    for field in ["command", "args"] {
        let items = geth.container[field].as_array().map(Vec::as_slice).unwrap_or_default();
        // From the end, so that what is taken out does not shift what is still to be taken out.
        for (at, text) in items.iter().enumerate().rev().filter_map(|(at, item)| Some((at, item.as_str()?))) {
            let Some(rest) = without_flag(text) else { continue };
            let item = place(["spec", "containers", &index, field, &at.to_string()]);
            if rest.trim().is_empty() {
                edit.remove(&item)?;
            } else {
                edit.replace(&item, json!(rest))?;
            }
            found.push("--ipcdisable");
        }
    }
    for (at, text) in cmdline::script_variables(geth.container) {
        let Some(rest) = without_flag(text) else { continue };
        edit.replace(
            &place(["spec", "containers", &index, "env", &at.to_string(), "value"]),
            json!(rest.trim_start()),
        )?;
        found.push("--ipcdisable");
    }
    let variables = geth.container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, _) in variables.iter().enumerate().rev().filter(|(_, entry)| entry["name"] == env::IPC_DISABLE) {
        edit.remove(&place(["spec", "containers", &index, "env", &at.to_string()]))?;
        found.push(env::IPC_DISABLE);
    }
    found.dedup();
    if !found.is_empty() {
        warnings.push(format!(
            "{} was taken out of container {}: without its IPC socket Geth cannot be peered",
            found.join(" and "),
            text::shown(geth.name())
        ));
    }
    Ok(())
}

/// The text without the flag; none if it is not in it.
fn without_flag(text: &str) -> Option<String> {
    let mut rest = String::new();
    let mut read = 0;
    for (begin, end) in find(text) {
        // What stands before it may have gone with the one before.
        rest.push_str(text.get(read..begin).unwrap_or_default());
        read = end;
    }
    rest.push_str(text.get(read..)?);
    (read > 0).then_some(rest)
}

/// Where the flag stands, with its value, its quotes, and what would be left of its line.
fn find(text: &str) -> impl Iterator<Item = (usize, usize)> {
    text.match_indices(FLAG).filter_map(|(at, _)| {
        let before = text.get(..at)?;
        let begin = ["--", "-"].iter().find_map(|dashes| before.strip_suffix(dashes))?.len();
        let after = text.get(at + FLAG.len()..)?;
        let value = match after.strip_prefix('=') {
            Some(value) => 1 + value.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(value.len()),
            None => 0,
        };
        let end = at + FLAG.len() + value;
        let part_of_word = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let alone = !text.get(..begin)?.ends_with(part_of_word) && !text.get(end..)?.starts_with(part_of_word);
        alone.then(|| widen(text, begin, end)).flatten()
    })
}

/// Widens a range over quotes that enclose it (an empty argument would be left) and over the blanks before it, or over
/// the whole line if nothing else is on it.
fn widen(text: &str, mut begin: usize, mut end: usize) -> Option<(usize, usize)> {
    for quote in ['"', '\''] {
        if text.get(..begin)?.ends_with(quote) && text.get(end..)?.starts_with(quote) {
            (begin, end) = (begin - 1, end + 1);
        }
    }
    begin = text.get(..begin)?.trim_end_matches([' ', '\t']).len();
    let starts_line = begin == 0 || text.get(..begin)?.ends_with('\n');
    let rest_of_line = text.get(end..)?.trim_start_matches([' ', '\t']);
    if let Some(next_line) = rest_of_line.strip_prefix("\\\n").filter(|_| starts_line) {
        end = text.len() - next_line.len();
    }
    Some((begin, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_flag_taken_out_and_nothing_else() {
        for (text, rest) in [
            ("--ipcdisable", ""),
            ("-ipcdisable", ""),
            ("--ipcdisable=true", ""),
            ("--ipcdisable=false", ""),
            ("geth --ipcdisable", "geth"),
            ("geth --ipcdisable --http", "geth --http"),
            ("geth --a -ipcdisable=1 --b --ipcdisable", "geth --a --b"),
            (
                "exec geth \\\n  --http \\\n  --ipcdisable \\\n  --nodiscover\n",
                "exec geth \\\n  --http \\\n  --nodiscover\n",
            ),
            ("exec geth \\\n  --http \\\n  --ipcdisable\n", "exec geth \\\n  --http \\\n\n"),
            ("exec geth \"--ipcdisable\" '--http'", "exec geth '--http'"),
            ("ARGS='--ipcdisable'; geth $ARGS", "ARGS=; geth $ARGS"),
            ("ARGS=\"--http --ipcdisable\"\ngeth $ARGS", "ARGS=\"--http\"\ngeth $ARGS"),
            ("cat <<EOF\ngeth --ipcdisable;\nEOF\n", "cat <<EOF\ngeth;\nEOF\n"),
        ] {
            assert_eq!(without_flag(text).as_deref(), Some(rest), "{text}");
        }
        for text in
            ["", "--http", "--ipcdisabled", "--no-ipcdisable", "ipcdisable", "/x/--ipcdisable", "--ipcdisable.x"]
        {
            assert_eq!(without_flag(text), None, "{text}");
        }
    }

    #[test]
    fn does_the_flag_go_however_often_it_is_there() {
        assert_eq!(without_flag(&"--ipcdisable ".repeat(100_000)).as_deref(), Some(" "));
        assert_eq!(
            without_flag("geth \\\n  --ipcdisable \\\n  --ipcdisable \\\n  --http").unwrap(),
            "geth \\\n  --http"
        );
        assert_eq!(without_flag("geth '--ipcdisable' \"--ipcdisable=1\" -ipcdisable --http").unwrap(), "geth --http");
    }

    #[test]
    fn does_a_continued_command_stay_one_command() {
        let rest = without_flag("geth \\\n--ipcdisable \\\n--http").unwrap();
        assert_eq!(rest, "geth \\\n--http");
    }
}
