//! The table: what was measured of each program, as a piece of `docs/injector-bench.md`.

use crate::load::Seen;
use crate::servers::Kind;
use crate::{BIG, Measured, SMALL, TWICE_AS_BIG};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// What stands in the file around that which is measured anew.
const BEGIN: &str = "<!-- measured: make bench-injector writes from here -->\n";
const END: &str = "<!-- measured: to here -->\n";

/// The table and what belongs to it; `cases` are the names of the loads.
pub(crate) fn of(cases: &[&str], measured: &[Measured], machine: &str) -> String {
    let mut text = format!("{machine}\n\n");
    row(&mut text, "", measured, |measured| measured.kind.name().into());
    row(&mut text, "---", measured, |_| "---".into());
    for (place, case) in cases.iter().enumerate() {
        let of = |measured: &Measured, what: fn(&Seen) -> f64| -> Vec<f64> {
            measured.seen[place].iter().map(what).collect()
        };
        row(&mut text, &format!("{case}: p50 / p99, ms"), measured, |measured| {
            format!("{:.3} / {:.2}", median(&of(measured, |seen| seen.p50)), median(&of(measured, |seen| seen.p99)))
        });
        row(&mut text, "requests/s (lowest to highest round)", measured, |measured| {
            let mut rates = of(measured, |seen| seen.rate);
            rates.sort_by(f64::total_cmp);
            let (lowest, highest) = (rates.first().copied(), rates.last().copied());
            let [middle, lowest, highest] =
                [median(&rates), lowest.unwrap_or(f64::NAN), highest.unwrap_or(f64::NAN)].map(thousands);
            format!("{middle} ({lowest} to {highest})")
        });
        row(&mut text, "processor time for each, µs", measured, |measured| {
            format!("{:.0}", median(&of(measured, |seen| seen.cpu)))
        });
    }
    row(&mut text, "resident memory idle / after 5.4 KB reviews / at most, MiB", measured, |measured| {
        let [idle, small, most] = [&measured.idle, &measured.after_small, &measured.most].map(|all| median(all));
        format!("{idle:.1} / {small:.1} / {most:.1}")
    });
    row(&mut text, "from start to the first answer, ms", measured, |measured| {
        format!("{:.0}", median(&measured.first_answer))
    });
    row(&mut text, "program, all that an image `FROM scratch` needs, MB", measured, |measured| {
        format!("{:.1}", measured.megabytes)
    });
    row(&mut text, "times as long for twice the variables (4,000 : 2,000, p50)", measured, |measured| {
        let p50 = |place: usize| median(&measured.seen[place].iter().map(|seen| seen.p50).collect::<Vec<_>>());
        format!("{:.2}", p50(TWICE_AS_BIG) / p50(BIG))
    });
    if let Some(times) = times(measured) {
        let _ = writeln!(
            text,
            "\nOf the small reviews, one core answers {times:.1} times as many as controller-runtime's."
        );
    }
    text
}

/// How many times as many ordinary reviews the injector answers in a second.
pub(crate) fn times(measured: &[Measured]) -> Option<f64> {
    let rate = |kind| {
        let measured = measured.iter().find(|measured| measured.kind == kind)?;
        Some(median(&measured.seen[SMALL].iter().map(|seen| seen.rate).collect::<Vec<_>>()))
    };
    Some(rate(Kind::Injector)? / rate(Kind::ControllerRuntime)?)
}

/// Puts the text into the file.
///
/// # Errors
/// When the file has no place for it, or cannot be read or written.
pub(crate) fn update(path: &Path, measured: &str) -> Result<()> {
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(place)?;
    let text = replaced(&text, measured).with_context(|| format!("no place for figures in {}", place()))?;
    std::fs::write(path, text).with_context(place)
}

fn replaced(text: &str, measured: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{measured}\n{END}{after}"))
}

fn row(text: &mut String, name: &str, measured: &[Measured], cell: impl Fn(&Measured) -> String) {
    let cells: Vec<_> = measured.iter().map(cell).collect();
    let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// With a comma before the last three digits.
fn thousands(number: f64) -> String {
    let number = number.round() as u64;
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(kind: Kind, rates: &[f64]) -> Measured {
        let seen = rates.iter().map(|&rate| Seen { p50: 1.0, p99: 2.0, rate, cpu: 3.0 }).collect();
        let one = vec![1.0];
        let (first_answer, idle, after_small, most) = (one.clone(), one.clone(), one.clone(), one);
        Measured { kind, megabytes: 1.0, first_answer, idle, after_small, most, seen: vec![seen; 6] }
    }

    #[test]
    fn is_the_median_of_all_rounds_what_counts() {
        let both = [
            measured(Kind::Injector, &[9000.0, 12000.0, 100.0]),
            measured(Kind::ControllerRuntime, &[3000.0, 2000.0, 9999.0]),
        ];
        assert_eq!(times(&both), Some(3.0));
        assert_eq!(times(&both[..1]), None);
        let text = of(&["a", "b", "c", "d", "e", "f"], &both, "machine");
        assert!(text.contains("9,000 (100 to 12,000) | 3,000 (2,000 to 9,999)"), "{text}");
        assert!(text.contains("3.0 times as many"), "{text}");
    }

    #[test]
    fn does_the_text_around_the_figures_stay() {
        let text = format!("Before.\n\n{BEGIN}old\n{END}\nAfter.\n");
        let once = replaced(&text, "new").unwrap();
        assert!(once.starts_with("Before.\n") && once.ends_with("\nAfter.\n") && !once.contains("old"), "{once}");
        assert_eq!(replaced(&once, "new").as_ref(), Some(&once));
        assert_eq!(replaced("nothing", "new"), None);
    }
}
