//! How often the API server was asked for what, from its own counters.

use anyhow::{Context, Result};
use kube::Client;
use std::collections::BTreeMap;

/// What was asked: resource, with its subresource if there is one, and verb.
type Asked = (String, String);

/// The counters of `apiserver_request_total` since the API server started.
#[derive(Clone, Debug)]
pub struct Requests(BTreeMap<Asked, u64>);

impl Requests {
    /// The counters of an API server that was just started.
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// When the API server does not show its metrics.
    pub async fn so_far(client: &Client) -> Result<Self> {
        let metrics = client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
        let mut counts = BTreeMap::new();
        for line in metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")) {
            let (labels, value) = line.rsplit_once(' ').with_context(|| format!("no value in {line:?}"))?;
            let (resource, subresource) = (label(labels, "resource"), label(labels, "subresource"));
            let what = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
            let value: f64 = value.parse().with_context(|| format!("not a count: {value}"))?;
            // Counters are whole numbers, far below what f64 holds exactly.
            *counts.entry((what, label(labels, "verb").to_owned())).or_default() += value as u64;
        }
        Ok(Self(counts))
    }

    /// What was asked since `earlier`, by resource and verb; requests for the metrics themselves have no resource.
    pub fn since(&self, earlier: &Self) -> BTreeMap<Asked, u64> {
        let more = |(asked, count): (&Asked, &u64)| {
            let difference = count.saturating_sub(earlier.0.get(asked).copied().unwrap_or_default());
            (difference > 0 && !asked.0.is_empty()).then(|| (asked.clone(), difference))
        };
        self.0.iter().filter_map(more).collect()
    }
}

/// The value of a label in Prometheus' text format; no label of this metric holds a quote.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let value = labels.split(['{', ',']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\""));
    value.and_then(|value| value.split('"').next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_label_found_by_its_whole_name() {
        let labels = r#"code="200",component="apiserver",resource="configmaps",subresource="",verb="GET"}"#;
        assert_eq!(label(labels, "resource"), "configmaps");
        assert_eq!(label(labels, "subresource"), "");
        assert_eq!(label(labels, "verb"), "GET");
        assert_eq!(label(labels, "version"), "");
    }
}
