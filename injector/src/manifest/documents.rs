//! A stream of manifests as text: YAML documents between lines of `---`, or JSON objects one after the other.
//!
//! What is not changed keeps its text to the byte. What is changed is written anew: its comments are lost, but for those
//! in front of it.

use serde_json::Value;

use super::ManifestError;

/// One manifest of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// Everything in front of the manifest: the line that separates it from the one before, and comments.
    head: String,
    body: String,
    json: bool,
    /// What it says; null if nothing.
    pub(super) value: Value,
}

impl Document {
    /// A manifest that was not in the stream; to be written like the others of it.
    pub(super) fn new(value: Value, json: bool) -> Self {
        let head = if json { String::new() } else { "---\n".to_owned() };
        Self { head, body: String::new(), json, value }
    }

    /// Whether it is written as JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Its text as it was read.
    pub(super) fn as_read(&self) -> String {
        format!("{}{}", self.head, self.body)
    }

    /// The text of what it says now.
    ///
    /// # Errors
    /// If that cannot be written so that it is read as the same again.
    pub(super) fn written(&self) -> Result<String, ManifestError> {
        if self.json {
            let text = serde_json::to_string_pretty(&self.value)
                .map_err(|error| ManifestError::Unwritable(error.to_string()))?;
            return Ok(format!("{}{text}\n", self.head));
        }
        // By default the crate quotes what YAML 1.1, which Kubernetes reads, takes for anything but a string.
        let text =
            serde_saphyr::to_string(&self.value).map_err(|error| ManifestError::Unwritable(error.to_string()))?;
        match parse_yaml(&text) {
            Ok(again) if again == self.value => Ok(format!("{}{text}", self.head)),
            Ok(_) => Err(ManifestError::Unwritable("it would be read as something else".to_owned())),
            Err(error) => Err(ManifestError::Unwritable(error)),
        }
    }
}

/// Reads a stream.
///
/// # Errors
/// If a part of it is neither YAML nor JSON.
pub(super) fn read(text: &str) -> Result<Vec<Document>, ManifestError> {
    if text.trim_start().starts_with('{') { read_json(text) } else { read_yaml(text) }
}

fn read_json(text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut documents = Vec::new();
    let mut begin = 0;
    while let Some(value) = stream.next() {
        let number = documents.len() + 1;
        let value = value.map_err(|error| ManifestError::Unreadable { number, error: error.to_string() })?;
        let end = stream.byte_offset();
        let body = text.get(begin..end).unwrap_or_default().to_owned();
        documents.push(Document { head: String::new(), body, json: true, value });
        begin = end;
    }
    if let Some(last) = documents.last_mut() {
        last.body.push_str(text.get(begin..).unwrap_or_default());
    }
    Ok(documents)
}

fn read_yaml(text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut documents = Vec::new();
    for (index, part) in parts(text).into_iter().enumerate() {
        let number = index + 1;
        let head: String = part.split_inclusive('\n').take_while(|line| says_nothing(line)).collect();
        let body = part.get(head.len()..).unwrap_or_default().to_owned();
        let value = parse_yaml(&body).map_err(|error| ManifestError::Unreadable { number, error })?;
        documents.push(Document { head, body, json: false, value });
    }
    Ok(documents)
}

/// A line that belongs to no manifest.
fn says_nothing(line: &str) -> bool {
    let line = line.trim_end();
    let rest = line.strip_prefix("---").unwrap_or(line).trim_start();
    rest.is_empty() || rest.starts_with('#')
}

/// Cuts before every line that begins with `---`, as kubectl does (apimachinery `util/yaml/decoder.go`).
fn parts(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = vec![0];
    starts.extend(text.match_indices("\n---").map(|(at, _)| at + 1));
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).filter_map(|(start, end)| text.get(*start..end)).filter(|part| !part.is_empty()).collect()
}

/// Reads YAML as Kubernetes does, which is 1.1: there `0644` is octal.
fn parse_yaml(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn is_a_stream_taken_apart_without_losing_a_byte() {
        for (text, values) in [
            ("", vec![]),
            ("a: 1\n", vec![json!({"a": 1})]),
            (
                "# first\n---\na: 1\n---\n\n# of b\nb: |\n  x\n  --- y\n",
                vec![json!(null), json!({"a": 1}), json!({"b": "x\n--- y\n"})],
            ),
            ("---\r\na: 1\r\n---\r\n", vec![json!({"a": 1}), json!(null)]),
            ("--- # c\na: 1\n...\n", vec![json!({"a": 1})]),
            ("--- {a: 1}\n", vec![json!({"a": 1})]),
            ("{\"a\": 1}\n{\"b\": 2}\n", vec![json!({"a": 1}), json!({"b": 2})]),
        ] {
            let documents = read(text).unwrap();
            assert_eq!(documents.iter().map(|document| document.value.clone()).collect::<Vec<_>>(), values, "{text}");
            assert_eq!(documents.iter().map(Document::as_read).collect::<String>(), text);
        }
    }

    #[test]
    fn is_yaml_read_and_written_as_kubernetes_understands_it() {
        let documents = read("# mine\nmode: 0644\non: yes\nquoted: \"yes\"\noctal: \"0644\"\nlong: 'a: b'\n").unwrap();
        let value = json!({"mode": 420, "on": true, "quoted": "yes", "octal": "0644", "long": "a: b"});
        assert_eq!(documents[0].value, value);
        let written = documents[0].written().unwrap();
        assert!(written.starts_with("# mine\n"), "{written}");
        for line in ["mode: 420", "quoted: 'yes'", "octal: '0644'"] {
            assert!(written.replace('"', "'").contains(line), "{written}");
        }
        assert_eq!(read(&written).unwrap()[0].value, value);
    }

    #[test]
    fn is_what_cannot_be_read_named_by_its_number() {
        for (text, number) in [("a: 1\n---\na: [\n", 2), ("a: 1\na: 2\n", 1), ("{\"a\": 1} {", 2)] {
            assert!(matches!(read(text), Err(ManifestError::Unreadable { number: n, .. }) if n == number), "{text}");
        }
    }
}
