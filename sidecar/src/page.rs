//! The page for people, at `/`: the same as `/status`, to be looked at.
//!
//! It is made here and has no script: whoever can write the registry chooses what
//! stands in it, and all of that goes through [`Escaped`]. The browser loads it anew
//! every few seconds, and is told by header to run and to fetch nothing.

use std::fmt::{self, Display, Formatter, Write};

use jiff::{Timestamp, Unit};

use crate::status::{Condition, PeerStatus, Status};

/// The style, which is within the page.
const STYLE: &str = include_str!("page.css");
/// After how many seconds the browser loads the page again.
const REFRESH: u32 = 5;

/// The `Content-Security-Policy` of a page with this `nonce`: its own style, and nothing else from anywhere.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page that shows `status` at `now`; `nonce` is to be another one each time.
pub fn render(status: &Status, now: Timestamp, nonce: &str) -> String {
    Page { status, now, nonce }.to_string()
}

/// Text as HTML shows it, in elements and in quoted attributes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // What turns the direction of text around, or cannot be seen.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => f.write_char(char::REPLACEMENT_CHARACTER),
            c => f.write_char(c),
        })
    }
}

/// A moment, as seen from another.
struct Since {
    then: Timestamp,
    now: Timestamp,
}

impl Display for Since {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let then = self.then.round(Unit::Second).unwrap_or(self.then);
        let seconds = self.now.duration_since(self.then).as_secs().max(0);
        let (number, unit) = match seconds {
            ..60 => (seconds, "s"),
            60..3600 => (seconds / 60, "min"),
            3600..86_400 => (seconds / 3600, "h"),
            _ => (seconds / 86_400, "d"),
        };
        write!(f, r#"<time datetime="{then}">{number} {unit} ago</time> <small>{then}</small>"#)
    }
}

struct Page<'a> {
    status: &'a Status,
    now: Timestamp,
    nonce: &'a str,
}

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { status, now, nonce } = self;
        let pod = Escaped(&status.own.pod);
        let (connected, wanted) = (status.connected, status.wanted);
        let answers = status.geth.state == "up";
        let summary = match (connected, wanted) {
            _ if !answers => format!("this pod's Geth: {}", status.geth.state),
            (_, 0) => "no other node to be connected to".to_owned(),
            (all, wanted) if all == wanted => format!("connected to all {wanted} others"),
            _ => format!("connected to {connected} of {wanted} others"),
        };
        let class = if answers && connected == wanted { "good" } else { "bad" };
        write!(
            f,
            r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{REFRESH}">
<title>{pod}: {summary}</title>
<style nonce="{nonce}">
{STYLE}</style>
</head>
<body>
<main>
<h1>{pod}</h1>
<p class="state {class}">{summary}</p>
"#
        )?;
        self.concerns(f)?;
        f.write_str("<h2>This node</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">What</th><th scope=\"col\">State</th><th scope=\"col\">Since</th><th scope=\"col\">Why</th></tr></thead>\n<tbody>\n")?;
        self.condition(f, "Geth", &status.geth, &["up"])?;
        self.condition(f, "Registry", &status.registry.shown, &["watching", "polling"])?;
        f.write_str("</tbody>\n</table></div>\n")?;
        self.own(f)?;
        self.links(f)?;
        write!(
            f,
            r#"</main>
<footer>As of <time datetime="{now:.0}">{now:.0}</time>, loaded again every {REFRESH} s. For programs: <a href="status">status</a>, <a href="metrics">metrics</a>, <a href="readyz">readyz</a>.</footer>
</body>
</html>
"#
        )
    }
}

impl Page<'_> {
    fn concerns(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.status.concerns.is_empty() {
            return Ok(());
        }
        f.write_str("<section class=\"concerns\">\n<h2>What needs you</h2>\n<ul>\n")?;
        for concern in &self.status.concerns {
            writeln!(f, "<li>{}</li>", Escaped(&concern.to_string()))?;
        }
        f.write_str("</ul>\n</section>\n")
    }

    fn condition(&self, f: &mut Formatter<'_>, name: &str, condition: &Condition, good: &[&str]) -> fmt::Result {
        let class = if good.contains(&condition.state) { "good" } else { "bad" };
        writeln!(
            f,
            r#"<tr><th scope="row">{name}</th><td class="state {class}">{}</td><td>{}</td><td>{}</td></tr>"#,
            condition.state,
            self.since(condition.since),
            Escaped(&condition.reason)
        )
    }

    fn own(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(entry) = &self.status.own.entry else { return Ok(()) };
        let name = entry.network.as_deref().map(|name| format!(", called {}", Escaped(name))).unwrap_or_default();
        writeln!(f, "<p>{}, network {}{name}</p>", Escaped(&entry.client), entry.network_id)?;
        writeln!(f, "<p>Genesis <code>{}</code></p>", Escaped(&entry.genesis))?;
        writeln!(f, "<p><code>{}</code></p>", Escaped(&entry.enode.to_string()))
    }

    /// What is missing first.
    fn links(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("<h2>Links to the other nodes</h2>\n")?;
        let mut peers: Vec<&PeerStatus> = self.status.peers.iter().collect();
        if peers.is_empty() {
            return f.write_str("<p>The registry has no other node.</p>\n");
        }
        peers.sort_by_key(|peer| (peer.state == "connected", !peer.is_wanted()));
        f.write_str("<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Pod</th><th scope=\"col\">State</th><th scope=\"col\">Since</th><th scope=\"col\">Why</th></tr></thead>\n<tbody>\n")?;
        for peer in peers {
            let class = if peer.state == "connected" { "good" } else { "bad" };
            let enode = peer.enode.as_deref().and_then(|enode| enode.rsplit_once('@'));
            let address = enode.map(|(_, address)| format!("<br><code>{}</code>", Escaped(address)));
            writeln!(
                f,
                r#"<tr><th scope="row">{}{}</th><td class="state {class}">{}</td><td>{}</td><td>{}</td></tr>"#,
                Escaped(&peer.pod),
                address.unwrap_or_default(),
                peer.state,
                self.since(peer.since),
                Escaped(&peer.reason)
            )?;
        }
        f.write_str("</tbody>\n</table></div>\n")
    }

    fn since(&self, then: Timestamp) -> Since {
        Since { then, now: self.now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_moment_told_as_people_say_it_and_to_the_second() {
        let then = Timestamp::from_second(1_800_000_000).unwrap();
        for (later, words) in [(0, "0 s"), (59, "59 s"), (200, "3 min"), (7300, "2 h"), (90_000, "1 d"), (-5, "0 s")] {
            let now = Timestamp::from_second(1_800_000_000 + later).unwrap();
            let html = Since { then, now }.to_string();
            assert!(html.contains(&format!(">{words} ago<")) && html.contains("2027-01-15T08:00:00Z"), "{html}");
        }
    }

    #[test]
    fn is_what_is_missing_shown_before_what_is_there() {
        let mut status = Status::new("geth-0", Timestamp::UNIX_EPOCH);
        status.peers = [("geth-1", "connected"), ("geth-2", "mismatch"), ("geth-3", "dialing")]
            .map(|(pod, state)| PeerStatus {
                pod: pod.into(),
                enode: None,
                state,
                reason: String::new(),
                since: Timestamp::UNIX_EPOCH,
            })
            .into();
        let page = render(&status, Timestamp::UNIX_EPOCH, "");
        let at = |pod| page.find(pod).unwrap();
        assert!(at("geth-3") < at("geth-2") && at("geth-2") < at("geth-1"));
    }
}
