//! What the injector decided about an object, in one closed list.
//!
//! The word of a decision is the same in the log, the metric label, the audit annotation and the Event, so that whoever
//! finds it in one place can search for it in the others. The sentence that goes with it is made where the decision is.

use crate::inject::OptIn;

/// What happened to one object, or why nothing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// The sidecar and all that goes with it were added.
    Injected,
    /// The sidecar was there, but something of ours was missing (another webhook took it out) and is back.
    Repaired,
    /// Everything is there already; nothing to do, unless the account that the pod had to do without has come.
    AlreadyInjected,
    /// The pod's label says `disabled`.
    Disabled,
    /// The pod's label has a value that is neither `enabled` nor `disabled`.
    BadLabel,
    /// An annotation `geth-peering/...` is unknown, has a bad value or is not supported.
    InvalidAnnotation,
    /// No container of the pod runs Geth as far as one can see.
    NoGethContainer,
    /// More than one container runs Geth.
    SeveralGethContainers,
    /// Where Geth will put its IPC socket cannot be told from the pod.
    IpcPathUnknown,
    /// The place of the IPC socket is known but cannot be shared with the sidecar.
    IpcPathImpossible,
    /// Under which user Geth runs cannot be told from the pod.
    UserUnknown,
    /// A container or volume of the user's has a name that the injector needs.
    NameTaken,
    /// The pod mirrors a static pod of a kubelet, which ignores changes.
    MirrorPod,
    /// The pod runs on Windows, where Geth has no unix socket.
    WindowsPod,
    /// Not the creation of an object that the injector changes.
    NotApplicable,
    /// The object has parts of an impossible type (a string where a list must be).
    MalformedObject,
    /// The pod template of an annotated workload got the label.
    TemplateLabelled,
    /// The label was taken out of the pod template of a workload.
    TemplateUnlabelled,
    /// The workload's annotation has a value that is neither `enabled` nor `disabled`.
    BadWorkloadAnnotation,
    /// The workload is as its annotation wants it, or has none.
    WorkloadUnchanged,
}

impl Decision {
    /// Every decision, for metrics that shall start at zero and for documentation.
    pub const ALL: [Decision; 20] = [
        Decision::Injected,
        Decision::Repaired,
        Decision::AlreadyInjected,
        Decision::Disabled,
        Decision::BadLabel,
        Decision::InvalidAnnotation,
        Decision::NoGethContainer,
        Decision::SeveralGethContainers,
        Decision::IpcPathUnknown,
        Decision::IpcPathImpossible,
        Decision::UserUnknown,
        Decision::NameTaken,
        Decision::MirrorPod,
        Decision::WindowsPod,
        Decision::NotApplicable,
        Decision::MalformedObject,
        Decision::TemplateLabelled,
        Decision::TemplateUnlabelled,
        Decision::BadWorkloadAnnotation,
        Decision::WorkloadUnchanged,
    ];

    /// The word for it. Part of the public interface: alerts and dashboards match it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Decision::Injected => "injected",
            Decision::Repaired => "repaired",
            Decision::AlreadyInjected => "already-injected",
            Decision::Disabled => "disabled",
            Decision::BadLabel => "bad-label",
            Decision::InvalidAnnotation => "invalid-annotation",
            Decision::NoGethContainer => "no-geth-container",
            Decision::SeveralGethContainers => "several-geth-containers",
            Decision::IpcPathUnknown => "ipc-path-unknown",
            Decision::IpcPathImpossible => "ipc-path-impossible",
            Decision::UserUnknown => "user-unknown",
            Decision::NameTaken => "name-taken",
            Decision::MirrorPod => "mirror-pod",
            Decision::WindowsPod => "windows-pod",
            Decision::NotApplicable => "not-applicable",
            Decision::MalformedObject => "malformed-object",
            Decision::TemplateLabelled => "template-labelled",
            Decision::TemplateUnlabelled => "template-unlabelled",
            Decision::BadWorkloadAnnotation => "bad-workload-annotation",
            Decision::WorkloadUnchanged => "workload-unchanged",
        }
    }

    /// Whether the request is refused.
    ///
    /// Whoever labels a pod asks for peering and must hear at once that it cannot be had; a pod that merely lives in a
    /// labelled namespace must never be kept from starting. A mirror pod is never refused: the static pod runs anyway.
    #[must_use]
    pub fn denies(self, opt_in: OptIn) -> bool {
        match self {
            Decision::BadLabel | Decision::BadWorkloadAnnotation => true,
            Decision::InvalidAnnotation
            | Decision::NoGethContainer
            | Decision::SeveralGethContainers
            | Decision::IpcPathUnknown
            | Decision::IpcPathImpossible
            | Decision::UserUnknown
            | Decision::NameTaken
            | Decision::WindowsPod
            | Decision::MalformedObject => opt_in == OptIn::PodLabel,
            Decision::Injected
            | Decision::Repaired
            | Decision::AlreadyInjected
            | Decision::Disabled
            | Decision::MirrorPod
            | Decision::NotApplicable
            | Decision::TemplateLabelled
            | Decision::TemplateUnlabelled
            | Decision::WorkloadUnchanged => false,
        }
    }

    /// Whether a pod that passes without the sidecar is worth a warning. A namespace holds many pods that are no Geth;
    /// those pass in silence.
    #[must_use]
    pub fn worth_a_warning(self) -> bool {
        !matches!(
            self,
            Decision::Disabled | Decision::NoGethContainer | Decision::NotApplicable | Decision::WorkloadUnchanged
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn is_every_word_unique_and_fit_for_a_label() {
        let words: BTreeSet<&str> = Decision::ALL.iter().map(|d| d.word()).collect();
        assert_eq!(words.len(), Decision::ALL.len());
        for word in words {
            assert!(word.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{word}");
        }
    }

    #[test]
    fn does_a_pod_in_a_labelled_namespace_always_pass() {
        for decision in Decision::ALL {
            // These two come from a label or annotation that the object itself has.
            let own = matches!(decision, Decision::BadLabel | Decision::BadWorkloadAnnotation);
            assert_eq!(decision.denies(OptIn::NamespaceLabel), own, "{}", decision.word());
        }
    }

    #[test]
    fn is_a_labelled_pod_that_cannot_be_injected_refused() {
        let refused: Vec<&str> = Decision::ALL.iter().filter(|d| d.denies(OptIn::PodLabel)).map(|d| d.word()).collect();
        assert_eq!(
            refused,
            [
                "bad-label",
                "invalid-annotation",
                "no-geth-container",
                "several-geth-containers",
                "ipc-path-unknown",
                "ipc-path-impossible",
                "user-unknown",
                "name-taken",
                "windows-pod",
                "malformed-object",
                "bad-workload-annotation"
            ]
        );
    }
}
