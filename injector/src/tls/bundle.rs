//! The `caBundle` of the MutatingWebhookConfiguration: what API servers trust.
//! It is the only field of that object the injector ever writes.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::Value;

/// The patch that puts `bundle` (PEM) into every webhook of `configuration` that has another one;
/// `None` if there is nothing to do.
///
/// Webhooks are addressed by index, so each is tested for its name: if somebody reorders them
/// meanwhile, the patch fails as a whole and is made again.
pub fn patch(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Option<Patch> {
    let operations: Vec<_> = configuration
        .webhooks
        .iter()
        .flatten()
        .enumerate()
        .filter(|(_, webhook)| {
            webhook.client_config.ca_bundle.as_ref().is_none_or(|current| current.0 != bundle.as_bytes())
        })
        .flat_map(|(index, webhook)| {
            let index = index.to_string();
            [
                PatchOperation::Test(TestOperation {
                    path: PointerBuf::from_tokens(["webhooks", &index, "name"]),
                    value: Value::String(webhook.name.clone()),
                }),
                PatchOperation::Add(AddOperation {
                    path: PointerBuf::from_tokens(["webhooks", &index, "clientConfig", "caBundle"]),
                    value: Value::String(base64(bundle)),
                }),
            ]
        })
        .collect();
    (!operations.is_empty()).then_some(Patch(operations))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn configuration() -> Value {
        let webhooks = ["pods", "namespaces", "workloads"].map(|name| {
            json!({
                "name": format!("{name}.geth-peering.io"),
                "clientConfig": {"service": {"namespace": "geth-peering", "name": "geth-peering-injector"}},
                "sideEffects": "NoneOnDryRun",
                "admissionReviewVersions": ["v1"],
                "aFieldOfTheFuture": name,
            })
        });
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "geth-peering"},
            "webhooks": webhooks,
        })
    }

    fn typed(value: &Value) -> MutatingWebhookConfiguration {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn does_every_webhook_get_the_bundle_and_nothing_else() {
        let mut object = configuration();
        let patch = super::patch(&typed(&object), "PEM").unwrap();
        json_patch::patch(&mut object, &patch).unwrap();

        let mut expected = configuration();
        for webhook in expected["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = json!("UEVN");
        }
        assert_eq!(object, expected);
        assert_eq!(super::patch(&typed(&object), "PEM"), None, "a second look finds nothing to do");
    }

    #[test]
    fn is_only_the_webhook_that_differs_touched() {
        let mut object = configuration();
        for (webhook, bundle) in object["webhooks"].as_array_mut().unwrap().iter_mut().zip(["UEVN", "Cg==", "UEVN"]) {
            webhook["clientConfig"]["caBundle"] = json!(bundle);
        }
        let patch = super::patch(&typed(&object), "PEM").unwrap();
        let paths: Vec<_> = patch.0.iter().map(|operation| operation.path().to_string()).collect();
        assert_eq!(paths, ["/webhooks/1/name", "/webhooks/1/clientConfig/caBundle"]);
    }

    #[test]
    fn does_the_patch_fail_as_a_whole_if_webhooks_were_reordered() {
        let mut object = configuration();
        let patch = super::patch(&typed(&object), "PEM").unwrap();
        object["webhooks"].as_array_mut().unwrap().reverse();
        let before = object.clone();
        assert!(json_patch::patch(&mut object, &patch).is_err());
        assert_eq!(object, before);
    }

    #[test]
    fn is_a_configuration_without_webhooks_left_alone() {
        assert_eq!(super::patch(&MutatingWebhookConfiguration::default(), "PEM"), None);
    }
}
