//! The table of all faults in a file: rows of this run, beside those of earlier runs.

use super::{Fault, Healed};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What the columns hold.
const HEAD: &str = "| fault | what is done | healed after, s | what was seen | measured |\n|---|---|---|---|---|\n";

/// How a fault ended.
pub struct Row {
    /// The fault's name.
    pub name: &'static str,
    line: String,
}

impl Row {
    /// The row of a fault that was just run on `day`.
    pub fn new(fault: &Fault, lasts: Option<u64>, outcome: &Result<Healed>, day: &str) -> Self {
        let mut done = fault.description(lasts);
        if !fault.healed.is_empty() {
            done += &format!(" (healed: {})", fault.healed);
        }
        let (after, notes) = match outcome {
            Ok(healed) => (seconds(healed.after), healed.notes.join("; ")),
            Err(error) => ("**not healed**".into(), first_line(&format!("{error:#}"))),
        };
        let cells = [format!("`{}`", fault.name), done, after, notes, day.into()].map(|cell| escaped(&cell));
        Self { name: fault.name, line: format!("| {} |\n", cells.join(" | ")) }
    }
}

/// Replaces the table in the text of a file: rows of `fresh`, else those that are there, in the order of `faults`.
/// What else is written in the file stays, but `machine`, which is the line that begins so, is told anew.
fn replaced(text: &str, faults: &[Fault], fresh: &[Row], machine: &str) -> Option<String> {
    let start = text.find("| fault |")?;
    let end = start
        + text[start..].split_inclusive('\n').take_while(|line| line.starts_with('|')).map(str::len).sum::<usize>();
    let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let mut rows: BTreeMap<String, String> =
        text[start..end].split_inclusive('\n').filter_map(|line| Some((name(line)?, line.to_owned()))).collect();
    rows.extend(fresh.iter().map(|row| (row.name.to_owned(), row.line.clone())));
    let table: String = faults.iter().filter_map(|fault| rows.remove(fault.name)).collect();
    let (before, after) = (&text[..start], &text[end..]);
    let told = |line: &str| if line.starts_with(MACHINE) { format!("{MACHINE}{machine}\n") } else { line.to_owned() };
    let before: String = before.split_inclusive('\n').map(told).collect();
    Some(format!("{before}{HEAD}{table}{after}"))
}

/// How the line begins that tells of the machine.
const MACHINE: &str = "Machine of the last run: ";

/// Puts rows into the table of a file.
///
/// # Errors
/// When the file has no table, or cannot be read or written.
pub fn update(path: &Path, faults: &[Fault], fresh: &[Row], machine: &str) -> Result<()> {
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(place)?;
    let text = replaced(&text, faults, fresh, machine).with_context(|| format!("no table in {}", place()))?;
    std::fs::write(path, text).with_context(place)
}

/// As seconds with one decimal.
pub fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fault: &Fault, outcome: Result<Healed>) -> Row {
        Row::new(fault, None, &outcome, "2026-01-02")
    }

    fn healed(notes: &[&str]) -> Healed {
        Healed { after: Duration::from_millis(1234), notes: notes.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn keeps_a_run_of_one_fault_the_rows_of_the_others_and_the_text_around() {
        let faults = super::super::all();
        let text = format!("# Faults\n\n{MACHINE}old\n\n{HEAD}\nThe end.\n");
        let first: Vec<_> = faults.iter().map(|fault| row(fault, Ok(healed(&["calm"])))).collect();
        let text = replaced(&text, &faults, &first, "new").unwrap();
        assert!(
            text.starts_with(&format!("# Faults\n\n{MACHINE}new\n\n| fault")) && text.ends_with("|\n\nThe end.\n"),
            "{text}"
        );
        assert_eq!(text.matches("1.2 | calm | 2026-01-02 |\n").count(), faults.len(), "{text}");

        let again = replaced(&text, &faults, &[row(&faults[2], Err(anyhow::anyhow!("a|b\nc")))], "new").unwrap();
        assert_eq!(again.matches("1.2 | calm |").count(), faults.len() - 1, "{again}");
        assert!(again.contains("**not healed** | a\\|b | 2026"), "{again}");
        let order = |text: &str| {
            text.lines()
                .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&text), order(&again));
    }

    #[test]
    fn goes_the_row_of_a_fault_that_is_no_more() {
        let faults = super::super::all();
        let text = format!("{HEAD}| `geth-in-love` | x | 1 | y | z |\n");
        let text = replaced(&text, &faults, &[row(&faults[0], Ok(healed(&[])))], "").unwrap();
        assert!(!text.contains("geth-in-love") && text.contains(faults[0].name), "{text}");
    }
}
