//! Runs helm on the chart and reads what it renders.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use injector::inject::Settings;
use serde_json::{Value, json};

/// The release and namespace of every rendering.
pub(super) const RELEASE: &str = "geth-peering";

/// The oldest Kubernetes that the chart accepts.
pub(super) const OLDEST_KUBERNETES: &str = "1.29.0";

/// Where the chart is.
pub(super) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../chart")
}

/// What Chart.yaml says.
pub(super) fn metadata() -> Value {
    serde_saphyr::from_str(&read("Chart.yaml")).expect("Chart.yaml is YAML")
}

/// Reads a file of the chart.
pub(super) fn read(file: &str) -> String {
    std::fs::read_to_string(chart().join(file)).expect(file)
}

/// The chart's own values.
pub(super) fn own_values() -> Value {
    serde_saphyr::from_str(&read("values.yaml")).expect("values.yaml is YAML")
}

/// Runs helm with `values` and returns what it prints, or its complaint.
pub(super) fn helm(arguments: &[&str], values: &Value) -> Result<String, String> {
    let program = env::var_os("HELM").unwrap_or_else(|| "helm".into());
    let mut child = Command::new(&program)
        .args(arguments)
        .args(["--values", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run {}: {error}. Run these tests through `make unit`, which builds the pinned helm, \
                 or set HELM to the path of one.",
                program.display()
            )
        });
    child.stdin.take().expect("piped").write_all(values.to_string().as_bytes()).expect("helm reads its values");
    let output = child.wait_with_output().expect("helm ends");
    let text = |bytes| String::from_utf8(bytes).expect("helm prints UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Renders the chart in `folder` for one version of Kubernetes.
pub(super) fn render_text_of(folder: &Path, values: &Value, kubernetes: &str) -> Result<String, String> {
    let folder = folder.to_str().expect("a path in UTF-8");
    helm(&["template", RELEASE, folder, "--namespace", RELEASE, "--kube-version", kubernetes], values)
}

/// Renders the chart into text.
pub(super) fn render_text(values: &Value) -> Result<String, String> {
    render_text_of(&chart(), values, OLDEST_KUBERNETES)
}

/// Renders the chart into its objects.
pub(super) fn render(values: &Value) -> Objects {
    render_for(values, OLDEST_KUBERNETES)
}

/// Renders the chart into its objects for one version of Kubernetes.
pub(super) fn render_for(values: &Value, kubernetes: &str) -> Objects {
    let text = render_text_of(&chart(), values, kubernetes);
    let text = text.unwrap_or_else(|error| panic!("{values} does not render: {error}"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("helm renders YAML");
    Objects(objects.into_iter().filter(|object| !is_for_helm_test(object)).collect())
}

/// Renders the chart into what exists only while `helm test` runs.
pub(super) fn render_test(values: &Value) -> Objects {
    let text = render_text(values).unwrap_or_else(|error| panic!("{values} does not render: {error}"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("helm renders YAML");
    Objects(objects.into_iter().filter(is_for_helm_test).collect())
}

fn is_for_helm_test(object: &Value) -> bool {
    object["metadata"]["annotations"]["helm.sh/hook"] == "test"
}

/// Why the chart refuses `values`.
pub(super) fn refusal(values: &Value) -> String {
    match render_text(values) {
        Ok(_) => panic!("{values} was accepted"),
        Err(error) => error,
    }
}

/// The values that set one value, given by its path: `at("image.tag", json!("1"))`.
pub(super) fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |value, key| json!({ key: value }))
}

/// Everything that one rendering creates.
pub(super) struct Objects(pub(super) Vec<Value>);

impl Objects {
    /// The only object of this kind and name.
    pub(super) fn get(&self, kind: &str, name: &str) -> &Value {
        let mut found = self.0.iter().filter(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        match (found.next(), found.next()) {
            (Some(object), None) => object,
            (None, _) => panic!("there is no {kind} {name}"),
            (Some(_), Some(_)) => panic!("there are several {kind} {name}"),
        }
    }

    /// The injector's Deployment, the only one.
    pub(super) fn deployment(&self) -> &Value {
        let mut deployments = self.0.iter().filter(|object| object["kind"] == "Deployment");
        let deployment = deployments.next().expect("a Deployment");
        assert!(deployments.next().is_none(), "there are several Deployments");
        deployment
    }

    /// The injector's pods.
    pub(super) fn pod(&self) -> &Value {
        &self.deployment()["spec"]["template"]
    }

    /// The injector's container.
    pub(super) fn container(&self) -> &Value {
        let containers = self.pod()["spec"]["containers"].as_array().expect("containers");
        assert_eq!(containers.len(), 1);
        &containers[0]
    }

    /// What the injector is told: flag without dashes, and value.
    pub(super) fn flags(&self) -> Vec<(String, String)> {
        let arguments = self.container()["args"].as_array().expect("args");
        assert_eq!(arguments[0], "serve");
        arguments[1..]
            .iter()
            .map(|argument| {
                let argument = argument.as_str().expect("a string").strip_prefix("--").expect("a flag");
                let (flag, value) = argument.split_once('=').expect("a flag with a value");
                (flag.to_owned(), value.to_owned())
            })
            .collect()
    }

    /// The one value of a flag.
    pub(super) fn flag(&self, name: &str) -> String {
        let mut found = self.flags().into_iter().filter(|(flag, _)| flag == name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("--{name} is not given"));
        assert!(found.next().is_none(), "--{name} is given twice");
        value
    }
}

/// The strings of a JSON list.
pub(super) fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().expect("a string")).collect()
}

/// An injector's settings, as the chart's own values make them.
pub(super) fn settings() -> Settings {
    Settings {
        image: "sidecar".into(),
        image_pull_policy: "IfNotPresent".into(),
        cpu_request: "5m".into(),
        memory_request: "16Mi".into(),
        memory_limit: "64Mi".into(),
        log_level: "INFO".into(),
        configmap_names: vec!["geth-peering".into()],
        registry_namespaces: Vec::new(),
        native_sidecars: true,
        disable_service_links: true,
        version: "0".into(),
    }
}
