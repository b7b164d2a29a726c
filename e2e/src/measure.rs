//! Figures that tests print and never assert: how fast is a question for a quiet machine.

use std::io::Write;
use std::time::Instant;

/// Prints a figure, even of a test that succeeds (`eprintln!` would be captured).
pub fn figure(what: &str, value: impl std::fmt::Display) {
    // A figure that cannot be shown is no reason to fail.
    let _ = writeln!(std::io::stderr(), "figure: {what}: {value}");
}

/// Prints how long ago `start` was.
pub fn since(what: &str, start: Instant) {
    figure(what, format_args!("{:.1} s", start.elapsed().as_secs_f64()));
}
