//! Text of others within messages.
//!
//! What a webhook is asked about was not validated yet: a name may be a megabyte long, or hold what looks like another line
//! of the log. A message carries as much of it as one needs to recognise it.

/// How many characters of a name or value a message carries. Names of Kubernetes objects have at most 63.
const LENGTH: usize = 64;

/// How many characters of another program's error a message carries; these quote what they were given.
const ERROR_LENGTH: usize = 200;

/// How many items of a list a message carries.
const ITEMS: usize = 8;

/// A text in quotes, escaped, and no longer than one reads.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("{:?}", clipped(text, LENGTH))
}

/// The same without the quotes.
#[must_use]
pub fn shown(text: &str) -> String {
    bare(text, LENGTH)
}

/// An error as the end of a sentence.
#[must_use]
pub fn error(error: &impl ToString) -> String {
    bare(&error.to_string(), ERROR_LENGTH)
}

/// Items with a separator between them; of many, the first and the number of the others.
#[must_use]
pub fn listed(items: &[String], separator: &str) -> String {
    let list = items[..items.len().min(ITEMS)].join(separator);
    match items.len().saturating_sub(ITEMS) {
        0 => list,
        more => format!("{list}{separator}and {more} more"),
    }
}

fn bare(text: &str, length: usize) -> String {
    let quoted = format!("{:?}", clipped(text, length));
    quoted[1..quoted.len() - 1].to_owned()
}

fn clipped(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_text_recognisable_on_one_line_of_bearable_length() {
        assert_eq!((quoted("it's"), shown("it's")), ("\"it's\"".to_owned(), "it's".to_owned()));
        assert_eq!(shown("a\nERROR b\""), "a\\nERROR b\\\"");
        assert_eq!(shown(&"ä".repeat(64)), "ä".repeat(64));
        assert_eq!(shown(&"ä".repeat(65)), "ä".repeat(64) + "…");
        assert_eq!(error(&"x".repeat(1_000_000)), "x".repeat(200) + "…");
    }

    #[test]
    fn does_a_long_list_end_with_the_number_of_the_others() {
        let items: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(listed(&items[..8], ", "), "0, 1, 2, 3, 4, 5, 6, 7");
        assert_eq!(listed(&items, ", "), "0, 1, 2, 3, 4, 5, 6, 7, and 2 more");
    }
}
