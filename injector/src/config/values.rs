//! The kinds of text that a flag may hold, each with the sentence for what it is not.

use std::str::FromStr;

use crate::inject::quantity;

/// Declares a checked string: its name, what it is, the test, and what is said when the test fails.
macro_rules! checked {
    ($name:ident, $what:literal, $test:expr, $error:literal) => {
        #[doc = $what]
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) struct $name(pub(super) String);

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let test: fn(&str) -> bool = $test;
                if test(text) { Ok(Self(text.to_owned())) } else { Err($error) }
            }
        }
    };
}

checked!(
    DnsLabel,
    "What namespaces and Services are called (RFC 1123 label).",
    |text| text.len() <= 63 && is_dns_label(text),
    "is no DNS label: write up to 63 lower-case letters, digits and '-'"
);
checked!(
    ObjectName,
    "What most objects are called (RFC 1123 subdomain).",
    |text| text.len() <= 253 && text.split('.').all(is_dns_label),
    "is no name of a Kubernetes object: write lower-case letters, digits, '-' and '.'"
);
checked!(
    Image,
    "An image reference.",
    |text| text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c)),
    "is no image reference: write one like registry.example/geth-peering/sidecar:0.1.0"
);
checked!(
    PullPolicy,
    "When an image is pulled (`PullPolicy` of the core API).",
    |text| ["Always", "IfNotPresent", "Never"].contains(&text),
    "is no pull policy: write Always, IfNotPresent or Never"
);
checked!(
    Quantity,
    "An amount of CPU or memory as Kubernetes writes it.",
    is_quantity,
    "is no quantity: write one above 0, like 10m or 32Mi"
);

checked!(
    Folder,
    "A folder, by a path that does not depend on where the program was started.",
    |text| text.starts_with('/'),
    "is no absolute path: write the folder that holds tls.crt and tls.key"
);

fn is_dns_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_quantity(text: &str) -> bool {
    text.parse::<quantity::Quantity>().is_ok_and(|quantity| quantity > quantity::Quantity::ZERO)
}
