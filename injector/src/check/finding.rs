//! One line of the report.

use std::fmt;

use crate::api::ApiError;

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, and somebody should know.
    Doubtful,
    /// Not as it should be.
    Wrong,
    /// It could not be looked at.
    Unseen,
}

/// What was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it was found.
    pub verdict: Verdict,
    what: String,
    advice: Option<String>,
}

impl Finding {
    pub(super) fn good(what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, what: what.into(), advice: None }
    }

    pub(super) fn doubtful(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Doubtful, what: what.into(), advice: Some(advice.into()) }
    }

    pub(super) fn wrong(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, what: what.into(), advice: Some(advice.into()) }
    }

    /// What could not be looked at, because of this.
    pub(super) fn unseen(what: &str, error: &ApiError) -> Self {
        let advice = if error.is_forbidden_by_rbac() {
            "run this as somebody who may"
        } else {
            "look whether the API server is well, and try again"
        };
        Self { verdict: Verdict::Unseen, what: format!("{what}: {error}"), advice: Some(advice.to_owned()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Good => "ok      ",
            Verdict::Doubtful => "WARNING ",
            Verdict::Wrong => "WRONG   ",
            Verdict::Unseen => "UNSEEN  ",
        };
        write!(f, "{mark} {}", self.what)?;
        self.advice.iter().try_for_each(|advice| write!(f, "\n         -> {advice}"))
    }
}
