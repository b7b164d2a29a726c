//! Keys of the registry: which pod an entry is of.
//!
//! In the registry of its own namespace a pod has its name for a key. In that of
//! another one its namespace stands before it, with a character between them that no
//! name of a namespace or pod has: so pods of the same name never meet.

const SEPARATOR: char = '_';

/// The key of pod `name` of `namespace` in a registry that is in namespace `registry`.
pub fn of(name: &str, namespace: &str, registry: &str) -> String {
    if namespace == registry { name.to_owned() } else { format!("{namespace}{SEPARATOR}{name}") }
}

/// The namespace and the name of the pod that has this key in a registry that is in
/// namespace `registry`. Anybody may have written the key: what cannot be the name of a
/// namespace is none.
pub fn pod_of<'a>(key: &'a str, registry: &'a str) -> (&'a str, &'a str) {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = |name: &str| name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_pod = |(namespace, pod): &(&str, &str)| is_name(namespace) && namespace.chars().all(inner) && is_name(pod);
    key.split_once(SEPARATOR).filter(is_pod).unwrap_or((registry, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_a_key_lead_back_to_its_pod() {
        for (name, namespace, key) in
            [("geth-0", "chain", "geth-0"), ("geth-0", "east", "east_geth-0"), ("a.b-0", "chain", "a.b-0")]
        {
            assert_eq!(of(name, namespace, "chain"), key);
            assert_eq!(pod_of(key, "chain"), (namespace, name));
        }
    }

    #[test]
    fn does_a_key_that_somebody_made_up_lead_nowhere_else() {
        for key in ["_geth-0", "east_", "a.b_geth-0", "East_geth-0", "east_..", ".._x", "-_x", "east__x"] {
            assert_eq!(pod_of(key, "chain"), ("chain", key), "{key}");
        }
    }
}
