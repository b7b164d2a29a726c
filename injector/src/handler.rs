//! One admission request from its bytes to the bytes of its answer. Decides nothing: [`inject`](crate::inject) and
//! [`workload`] do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::decision::Decision;
use crate::events::{Notice, Notices};
use crate::inject::{Account, AccountPlan, Lack, OptIn, Outcome, Settings, Survey};
use crate::metrics::Metrics;
use crate::prepare::Preparer;
use crate::review::{Operation, Response, Review, ReviewError};
use crate::workload;

/// The webhook's name in logs and metrics.
const PODS: &str = "pods";
/// The webhook's name in logs and metrics.
const WORKLOADS: &str = "workloads";
/// The word for a request on which the injector itself failed.
pub const INTERNAL_ERROR: &str = "internal-error";
/// The word of the Event that says that an account has no rights.
const NOT_PREPARED: &str = "not-prepared";

/// Reviews of more bytes than this are read one at a time. Read, they take up to some eighty times as much memory (pods of
/// tens of thousands of variables), and nobody has a pod of such a size who means well.
const LARGE: usize = 256 * 1024;

/// Answers admission requests.
pub struct Webhook {
    settings: Settings,
    preparer: Arc<Preparer>,
    notices: Notices,
    metrics: Arc<Metrics>,
    /// Held while a large review is in memory.
    large: Semaphore,
    stopping: AtomicBool,
}

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum Unanswered {
    /// It is no review.
    #[error("a request that is no admission review: {0}")]
    NoReview(#[from] ReviewError),
    /// The pod's account lacks its rights, and whoever is about to end cannot owe them to it. Whoever answers when the pod
    /// is created again can.
    #[error("this injector is stopping and cannot give the pod's account its rights any more: {0}")]
    Stopping(String),
}

/// What was decided about a request, as it is logged, counted and answered.
struct Decided {
    word: &'static str,
    outcome: Outcome,
}

impl Webhook {
    /// One that injects what `settings` say.
    pub fn new(settings: Settings, preparer: Arc<Preparer>, notices: Notices, metrics: Arc<Metrics>) -> Self {
        for webhook in [PODS, WORKLOADS] {
            let words = Decision::ALL.iter().map(|decision| decision.word());
            words.chain([INTERNAL_ERROR]).for_each(|word| metrics.expect_decision(webhook, word));
        }
        Self { settings, preparer, notices, metrics, large: Semaphore::new(1), stopping: AtomicBool::new(false) }
    }

    /// From now on nothing is promised for later, because this process ends soon.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Answers a review of a pod.
    ///
    /// # Errors
    /// If `body` is no review, or the answer would need something to be done after the end of this process.
    pub async fn mutate_pods(&self, body: &[u8]) -> Result<Vec<u8>, Unanswered> {
        let start = Instant::now();
        let _turn = if body.len() > LARGE { self.large.acquire().await.ok() } else { None };
        let review = Review::parse(body)?;
        let applicable =
            review.resource == "pods" && review.sub_resource.is_empty() && review.operation == Operation::Create;
        let decided = if applicable {
            self.decide_about_pod(&review).await?
        } else {
            Outcome::unchanged(Decision::NotApplicable).into()
        };
        Ok(self.conclude(PODS, start, &review, &decided))
    }

    /// Answers a review of a StatefulSet or Deployment.
    ///
    /// # Errors
    /// If `body` is no review.
    pub fn mutate_workloads(&self, body: &[u8]) -> Result<Vec<u8>, Unanswered> {
        let start = Instant::now();
        let review = Review::parse(body)?;
        // Nobody but the workload's own annotation can have asked for anything, and the webhook is a convenience: a
        // failure of ours must not keep a workload from being changed.
        let defaults = self.preparer.defaults(&review.namespace);
        let decided = guarded(|| workload::mutate(&review, &self.settings, &defaults))
            .map_or_else(|| failed(OptIn::NamespaceLabel), Decided::from);
        Ok(self.conclude(WORKLOADS, start, &review, &decided))
    }

    async fn decide_about_pod(&self, review: &Review) -> Result<Decided, Unanswered> {
        let opt_in = OptIn::of(&review.object);
        let defaults = self.preparer.defaults(&review.namespace);
        let Some(survey) = guarded(|| Survey::of(&review.object, &self.settings, &defaults)) else {
            return Ok(failed(opt_in));
        };
        let account = match survey.account() {
            // It will not be injected.
            None => Account::Ready,
            Some(plan) => self.account(review, plan).await?,
        };
        Ok(guarded(|| survey.inject(&account)).map_or_else(|| failed(opt_in), Decided::from))
    }

    /// Sees to the account that the pod of `review` will run under.
    async fn account(&self, review: &Review, plan: &AccountPlan) -> Result<Account, Unanswered> {
        let (namespace, registry) = (&review.namespace, plan.registry.as_deref());
        let Err(error) = self.preparer.ensure(namespace, &plan.name, registry, review.dry_run).await else {
            return Ok(Account::Ready);
        };
        let why = error.to_string();
        if self.stopping.load(Ordering::Relaxed) && !review.dry_run {
            return Err(Unanswered::Stopping(why));
        }
        self.notify(review, NOT_PREPARED, &format!("the sidecar may lack the rights to find peers: {why}"));
        let kept = plan.replaces.as_deref().filter(|_| !self.preparer.has_account(namespace));
        if !review.dry_run {
            self.preparer.owe(namespace, kept.unwrap_or(&plan.name), registry);
        }
        let lack = Lack { why, owed: !review.dry_run };
        Ok(if kept.is_some() { Account::Missing(lack) } else { Account::Unbound(lack) })
    }

    /// Tells everybody who should know, and makes the answer.
    fn conclude(&self, webhook: &'static str, start: Instant, review: &Review, decided: &Decided) -> Vec<u8> {
        let Decided { word, outcome } = decided;
        let answer = Response::new(review, outcome).to_vec();
        if let Some(message) = &outcome.message
            && (outcome.denied || outcome.decision.worth_a_warning())
        {
            self.notify(review, word, message);
        }
        self.metrics.decided(webhook, word, start.elapsed());
        tracing::info!(
            webhook,
            namespace = %review.namespace,
            name = %name(review),
            decision = word,
            denied = outcome.denied,
            dry_run = review.dry_run,
            reason = outcome.message.as_deref(),
            "decided"
        );
        answer
    }

    fn notify(&self, review: &Review, word: &'static str, note: &str) {
        if !review.dry_run
            && let Some(notice) = Notice::for_owner_of(&review.object, &review.namespace, word, note)
        {
            self.notices.send(notice);
        }
    }
}

impl From<Outcome> for Decided {
    fn from(outcome: Outcome) -> Self {
        Self { word: outcome.decision.word(), outcome }
    }
}

/// `None` if `decide` panicked. It is given nothing that it could leave half changed, so the next request is none the
/// worse for it.
pub(crate) fn guarded<T>(decide: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(decide)).ok()
}

/// The answer when the injector itself failed: who asked for peering must not get a pod that silently has none, and who
/// did not ask must not be kept from running.
fn failed(opt_in: OptIn) -> Decided {
    let message = "the injector failed on this object, which is an error in geth-peering; its log has the details";
    let denied = opt_in == OptIn::PodLabel;
    tracing::error!(denied, "a decision panicked; please report this with the object and the lines above");
    let outcome = Outcome {
        denied,
        message: Some(message.to_owned()),
        warnings: if denied { Vec::new() } else { vec![message.to_owned()] },
        audit: [("decision".to_owned(), INTERNAL_ERROR.to_owned())].into(),
        ..Outcome::unchanged(Decision::MalformedObject)
    };
    Decided { word: INTERNAL_ERROR, outcome }
}

/// The object's name; if it has none yet, what its name will begin with. It was not validated yet, so it might hold
/// anything, also what would look like another line of the log.
fn name(review: &Review) -> String {
    let metadata = &review.object["metadata"];
    let text = |field: &str| metadata[field].as_str().map(str::to_owned);
    let named = Some(review.name.clone()).filter(|name| !name.is_empty()).or_else(|| text("name"));
    let name = named.or_else(|| text("generateName").map(|prefix| format!("{prefix}*"))).unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn review(object: Value) -> Review {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "1", "operation": "CREATE", "object": object},
        });
        Review::parse(review.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn is_an_error_of_ours_an_answer_that_suits_who_asked() {
        let never: fn() -> Outcome = || panic!("this panic belongs to the test");
        assert!(guarded(never).is_none());

        let answer = |opt_in| -> Value {
            let Decided { word, outcome } = failed(opt_in);
            assert_eq!(word, INTERNAL_ERROR);
            serde_json::from_slice(&Response::new(&review(json!({})), &outcome).to_vec()).unwrap()
        };
        let asked = &answer(OptIn::PodLabel)["response"];
        assert_eq!(asked["allowed"], false);
        assert!(asked["status"]["message"].as_str().unwrap().contains("error in geth-peering"), "{asked}");
        let did_not_ask = &answer(OptIn::NamespaceLabel)["response"];
        assert_eq!((&did_not_ask["allowed"], did_not_ask.get("patch")), (&json!(true), None));
        assert_eq!(did_not_ask["warnings"].as_array().unwrap().len(), 1);
        assert_eq!(did_not_ask["auditAnnotations"]["decision"], INTERNAL_ERROR);
    }

    #[test]
    fn is_a_pod_without_a_name_recognisable_in_the_log() {
        for (metadata, expected) in [
            (json!({"name": "geth-0", "generateName": "geth-"}), "geth-0"),
            (json!({"generateName": "geth-"}), "geth-*"),
            (json!({"generateName": "a\nERROR b"}), "aERROR b*"),
            (json!({}), ""),
        ] {
            assert_eq!(name(&review(json!({"metadata": metadata}))), expected);
        }
    }
}
