//! What stands beside each value in values.yaml, and the READMEs' table that is made of it.

use std::fs;

use serde_json::Value;

use super::helm::{chart, own_values, read};

/// A value as values.yaml explains it.
pub(super) struct Documented {
    pub(super) path: String,
    /// The paragraph that begins with `# --`, in one line.
    pub(super) effect: String,
}

/// Every value of values.yaml that has a comment of its own, from top to bottom.
pub(super) fn documented() -> Vec<Documented> {
    let mut found = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let (mut effect, mut ended) = (None::<String>, false);
    for line in read("values.yaml").lines() {
        let text = line.trim_start();
        if let Some(words) = text.strip_prefix('#').map(str::trim) {
            match (words.strip_prefix("-- "), &mut effect) {
                (Some(first), _) => (effect, ended) = (Some(first.to_owned()), false),
                (None, Some(_)) if words.is_empty() => ended = true,
                (None, Some(effect)) if !ended => *effect = format!("{effect} {words}"),
                (None, _) => {}
            }
            continue;
        }
        if let Some((key, _)) = text.split_once(':').filter(|(key, _)| !key.starts_with("- ")) {
            let indent = line.len() - text.len();
            parents.retain(|(depth, _)| *depth < indent);
            parents.push((indent, key.to_owned()));
            if let Some(effect) = effect.take() {
                let path = parents.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(".");
                found.push(Documented { path, effect });
            }
        }
        effect = None;
    }
    found
}

/// A value in one line of YAML, as short as it can be written.
fn flow(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", list(items.iter().map(flow).collect())),
        Value::Object(fields) => {
            format!("{{{}}}", list(fields.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect()))
        }
        Value::String(text) => {
            let plain = serde_saphyr::from_str::<Value>(&format!("[{text}]")).is_ok_and(|read| read[0] == *value);
            if plain { text.clone() } else { value.to_string() }
        }
        other => other.to_string(),
    }
}

/// The table of both READMEs.
fn table() -> String {
    let values = own_values();
    let rows = documented().into_iter().map(|Documented { path, effect }| {
        let default = path.split('.').fold(&values, |value, key| &value[key]);
        assert!(!effect.contains('|'), "{path}: a cell cannot have a |");
        format!("| `{path}` | `{}` | {effect} |\n", flow(default))
    });
    format!("| value | default | effect |\n|---|---|---|\n{}", rows.collect::<String>())
}

#[test]
fn do_the_readmes_say_of_every_value_what_values_yaml_says() {
    // The second is the chart's own, which `helm show readme` shows.
    for file in ["../README.md", "README.md"] {
        let path = chart().join(file);
        let readme = fs::read_to_string(&path).expect("the README");
        let start = readme.find("\n| value | default | effect |\n").expect("the table") + 1;
        let length = readme[start..].find("\n\n").map_or(readme.len() - start, |end| end + 1);
        let current = format!("{}{}{}", &readme[..start], table(), &readme[start + length..]);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &current).expect("the README can be written");
        } else {
            assert!(readme == current, "UPDATE_GOLDEN=1 writes the table of values of {file} anew");
        }
    }
}
