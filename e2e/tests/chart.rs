//! What the chart promises, asked of what helm renders; no cluster is needed.

#[cfg(test)]
mod chart {
    mod documented;
    mod guard;
    mod helm;
    mod monitoring;
    mod notes;
    mod package;
    mod pods;
    mod protection;
    mod readme;
    mod rights;
    mod test;
    mod tls;
    mod values;
    mod webhooks;
}
