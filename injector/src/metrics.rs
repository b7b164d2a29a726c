//! What the injector counts. Every label has a closed set of values: nothing a user writes becomes one.

use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::audit::Flaw;

/// Upper bounds, seconds: from well below what an injection takes to the 5 s after which the API server gives up.
const DURATION_BUCKETS: [f64; 11] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.05, 0.25, 1.0, 2.5, 5.0];

const GIVEN_UP: &str = "given-up";
const TURNED_AWAY: &str = "turned-away";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    webhook: &'static str,
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    webhook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlawLabels {
    flaw: &'static str,
}

/// All metrics, and the registry that prints them.
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    durations: Family<WebhookLabels, Histogram>,
    preparations: Family<ResultLabels, Counter>,
    flawed: Family<FlawLabels, Gauge>,
    crowded: Family<ResultLabels, Counter>,
    authority_expiry: Gauge,
    certificate_expiry: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("geth_peering_injector");
        let decisions = Family::default();
        registry.register("decisions", "Admission requests by what was decided", decisions.clone());
        let durations: Family<WebhookLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        registry.register_with_unit(
            "admission_duration",
            "Time from a complete request to its answer",
            Unit::Seconds,
            durations.clone(),
        );
        let preparations = Family::default();
        registry.register(
            "namespace_preparations",
            "Namespaces whose ServiceAccount and RoleBinding had to be written, by result",
            preparations.clone(),
        );
        let flawed = Family::default();
        registry.register(
            "flawed_pods",
            "Pods that are to have the sidecar and have none, or one of another version, at the last look",
            flawed.clone(),
        );
        let crowded = Family::default();
        registry.register(
            "crowded_connections",
            "Connections for which there was no room among all, by what became of them",
            crowded.clone(),
        );
        for result in [GIVEN_UP, TURNED_AWAY] {
            let _at_zero = crowded.get_or_create(&ResultLabels { result });
        }
        let (authority_expiry, certificate_expiry) = (Gauge::default(), Gauge::default());
        for (name, help, gauge) in [
            ("ca_expiry_timestamp", "When the certificate authority ends, in Unix time", &authority_expiry),
            ("certificate_expiry_timestamp", "When the serving certificate ends, in Unix time", &certificate_expiry),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        }
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of this program", build);
        Self { registry, decisions, durations, preparations, flawed, crowded, authority_expiry, certificate_expiry }
    }
}

impl Metrics {
    /// `webhook` may come to decide `decision`: it is shown from the start, as rates need a zero to begin with.
    pub fn expect_decision(&self, webhook: &'static str, decision: &'static str) {
        let _at_zero = self.decisions.get_or_create(&DecisionLabels { webhook, decision });
    }

    /// `webhook` decided `decision`, which took `duration`.
    pub fn decided(&self, webhook: &'static str, decision: &'static str, duration: Duration) {
        self.decisions.get_or_create(&DecisionLabels { webhook, decision }).inc();
        self.durations.get_or_create(&WebhookLabels { webhook }).observe(duration.as_secs_f64());
    }

    /// A namespace had to be prepared, which worked or not.
    pub fn prepared(&self, success: bool) {
        let result = if success { "prepared" } else { "failed" };
        self.preparations.get_or_create(&ResultLabels { result }).inc();
    }

    /// So many pods have this flaw.
    pub fn found(&self, flaw: Flaw, pods: u64) {
        let pods = i64::try_from(pods).unwrap_or(i64::MAX);
        self.flawed.get_or_create(&FlawLabels { flaw: flaw.word() }).set(pods);
    }

    /// A connection was closed so that another address could have one.
    pub(crate) fn given_up(&self) {
        self.crowded.get_or_create(&ResultLabels { result: GIVEN_UP }).inc();
    }

    /// A connection was closed as soon as it came.
    pub(crate) fn turned_away(&self) {
        self.crowded.get_or_create(&ResultLabels { result: TURNED_AWAY }).inc();
    }

    /// When the certificate authority in use ends.
    pub fn authority_expires(&self, at: Timestamp) {
        self.authority_expiry.set(at.as_second());
    }

    /// When the certificate in use ends.
    pub fn certificate_expires(&self, at: Timestamp) {
        self.certificate_expiry.set(at.as_second());
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_every_number_appear_under_its_public_name() {
        let metrics = Metrics::default();
        metrics.decided("pods", "injected", Duration::from_micros(200));
        metrics.decided("pods", "injected", Duration::from_millis(3));
        metrics.prepared(true);
        metrics.found(Flaw::Uninjected, 3);
        metrics.given_up();
        metrics.authority_expires(Timestamp::from_second(1_800_000_000).unwrap());
        metrics.certificate_expires(Timestamp::from_second(1_700_000_000).unwrap());
        let text = metrics.text().unwrap();
        for line in [
            r#"geth_peering_injector_decisions_total{webhook="pods",decision="injected"} 2"#,
            r#"geth_peering_injector_admission_duration_seconds_count{webhook="pods"} 2"#,
            r#"geth_peering_injector_admission_duration_seconds_bucket{le="0.00025",webhook="pods"} 1"#,
            r#"geth_peering_injector_namespace_preparations_total{result="prepared"} 1"#,
            r#"geth_peering_injector_flawed_pods{flaw="uninjected"} 3"#,
            r#"geth_peering_injector_crowded_connections_total{result="given-up"} 1"#,
            r#"geth_peering_injector_crowded_connections_total{result="turned-away"} 0"#,
            "geth_peering_injector_ca_expiry_timestamp_seconds 1800000000",
            "geth_peering_injector_certificate_expiry_timestamp_seconds 1700000000",
            concat!(r#"geth_peering_injector_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
