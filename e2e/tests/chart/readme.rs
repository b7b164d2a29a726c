//! Does the README name everything there is, and nothing else? It is compared with the chart and the two programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use injector::audit::Flaw;
use injector::decision::Decision;
use injector::handler::INTERNAL_ERROR;
use injector::inject::{Account, Context, ENABLED, KEY, OptIn, inject};
use serde_json::json;
use sidecar::config::{Config, env};
use sidecar::events::{GETH_WORDS, REGISTRY_WORD};
use sidecar::plan::LinkState;
use sidecar::plan::concern::Concern;
use sidecar::status::{GETH_STATES, REGISTRY_STATES};

use super::helm::settings;
use super::monitoring::exported;

/// Where the checkout is.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text of the README from this heading to the next.
fn section(heading: &str) -> String {
    let readme = file("README.md");
    let start = readme.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let body = &readme[start + 1 + heading.len()..];
    // A line of a script may begin with one #, so only two or more are a heading here.
    body[..body.find("\n##").unwrap_or(body.len())].to_owned()
}

/// The table of a section: its first column, which is `code`, and the cells beside it.
fn table(heading: &str) -> BTreeMap<String, Vec<String>> {
    let section = section(heading);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
    let mut table = BTreeMap::new();
    for (name, cells) in rows {
        let cells = cells.split(" | ").map(str::to_owned).collect();
        assert!(table.insert(name.to_owned(), cells).is_none(), "{name} has two rows under {heading:?}");
    }
    table
}

fn names<T>(table: &BTreeMap<String, T>) -> BTreeSet<&str> {
    table.keys().map(String::as_str).collect()
}

/// What stands in a cell of `code` and nothing else.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|code| !code.contains('`'))
}

/// The annotations that the injector takes, by its own account: its refusal of any other names them all.
fn annotations() -> BTreeSet<String> {
    let settings = settings();
    let pod = json!({
        "metadata": {"labels": {KEY: ENABLED}, "annotations": {"geth-peering/no-such-annotation": ""}},
        "spec": {"containers": [{"name": "geth", "image": "ethereum/client-go"}]},
    });
    let context = Context { settings: &settings, account: &Account::Ready };
    let refusal = inject(&pod, &context).message.expect("a refusal");
    let list = refusal.split_once('{').and_then(|(_, rest)| rest.split_once('}')).expect("a list").0;
    list.split(',').map(|name| format!("geth-peering/{name}")).collect()
}

#[test]
fn does_it_list_every_annotation() {
    let (table, annotations) = (table("## Annotations"), annotations());
    assert_eq!(names(&table), annotations.iter().map(String::as_str).collect());
    for (annotation, cells) in &table {
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.trim().is_empty()), "{annotation}: {cells:?}");
    }
}

#[test]
fn does_the_advice_for_a_quota_on_cpu_limits_give_the_sidecar_one() {
    let advice = "geth-peering/patch: '";
    for text in [section("## Guarantees and limits"), file("chart/values.yaml")] {
        let (_, rest) = text.split_once(advice).expect("the advice");
        let patch = rest.split_once('\'').expect("its end").0;
        let pod = json!({
            "metadata": {"labels": {KEY: ENABLED}, "annotations": {"geth-peering/patch": patch}},
            "spec": {"containers": [{"name": "geth", "image": "ethereum/client-go"}]},
        });
        let settings = settings();
        let context = Context { settings: &settings, account: &Account::Ready };
        let mut injected = pod.clone();
        json_patch::patch(&mut injected, &inject(&pod, &context).patch).expect("a patch");
        let limits = &injected["spec"]["initContainers"][0]["resources"]["limits"];
        assert_eq!(*limits, json!({"cpu": "100m", "memory": "64Mi"}), "{patch}");
    }
}

/// The sidecar's variables: every constant of `config::env`.
fn variables() -> BTreeSet<String> {
    let source = file("sidecar/src/config.rs");
    let module = source.split_once("pub mod env {").and_then(|(_, rest)| rest.split_once("\n}")).expect("the module").0;
    let constants = module.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
    constants.map(|line| line.split('"').nth(1).expect("a string").to_owned()).collect()
}

#[test]
fn does_it_list_every_variable_of_the_sidecar_with_its_default() {
    let (table, mut variables) = (table("## The sidecar by hand"), variables());
    // Others than the user set these two; they are defaults of two that the user may set.
    for given in [env::HOSTNAME, env::API_SERVER] {
        assert!(variables.remove(given), "{given}");
        assert!(table.values().any(|cells| cells[0].contains(&format!("`{given}`"))), "{given} is no default");
    }
    assert_eq!(names(&table), variables.iter().map(String::as_str).collect());

    let read = |written: &dyn Fn(&str) -> Option<String>| {
        let lookup = |name: &str| match name {
            env::POD_NAME => Some("geth-0".to_owned()),
            env::POD_IP => Some("10.0.0.1".to_owned()),
            _ => written(name),
        };
        Config::read(lookup, |_| None).expect("a configuration")
    };
    let default = |name: &str| Some(code(&table[name][0])?.to_owned());
    assert_eq!(read(&|name| table.get(name).and_then(|_| default(name))), read(&|_| None), "the defaults in effect");
    let set: BTreeSet<&str> = names(&table).into_iter().filter(|name| default(name).is_some()).collect();
    let constant =
        ["CONFIGMAP_NAME", "IPC_PATH", "LOGGING", "PEERING_HTTP_PORT", "PEERING_LOG_FORMAT", "PEERING_MIN_PEERS"];
    assert_eq!(set, constant.into(), "the others' defaults depend on the pod, or they have none");
}

#[test]
fn does_it_explain_every_decision_and_say_which_refuse() {
    let table = table("### Decisions");
    let mut words: BTreeSet<&str> = Decision::ALL.iter().map(|decision| decision.word()).collect();
    // What the handler adds: its own failure, and the Event about a namespace.
    words.extend([INTERNAL_ERROR, "not-prepared"]);
    words.extend(Flaw::ALL.map(Flaw::word));
    assert_eq!(names(&table), words);
    for decision in Decision::ALL {
        let fate = &table[decision.word()][1];
        assert_eq!(fate.contains("refused"), decision.denies(OptIn::PodLabel), "{}: {fate}", decision.word());
    }
}

#[test]
fn does_it_explain_every_state_in_which_a_link_can_be_stuck() {
    let text = section("## When it does not");
    for state in LinkState::ALL.map(LinkState::as_str) {
        assert!(text.contains(&format!("`{state}`")), "{state}");
    }
}

#[test]
fn does_it_explain_every_state_of_geth_and_registry_and_every_event() {
    let text = section("## When it does not");
    let words = Concern::WORDS.into_iter().chain(GETH_WORDS).chain([REGISTRY_WORD]);
    for word in GETH_STATES.into_iter().chain(REGISTRY_STATES).chain(words) {
        assert!(text.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn does_it_name_every_metric() {
    let shown = exported();
    let metrics = shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|line| {
        let (family, kind) = line.split_once(' ').expect("a name and a type");
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        format!("{family}{suffix}")
    });
    let text = section("## When it does not");
    let named = text.split('`').filter(|code| code.starts_with("geth_peering_") && !code.contains(' '));
    assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), metrics.collect());
}

/// All of the Rust that there is.
fn rust(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).expect("text"));
        }
    }
}

#[test]
fn does_every_test_exist_that_the_page_beside_other_injectors_names() {
    let mut all = String::new();
    ["injection", "injector", "sidecar", "e2e"].iter().for_each(|folder| rust(&root().join(folder), &mut all));
    let page = file("docs/injectors.md");
    let is_test = |word: &&str| {
        word.matches('_').count() > 2 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    };
    let named: BTreeSet<&str> = page.split('`').filter(is_test).collect();
    assert!(named.len() > 50, "{}", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !all.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn does_every_make_target_and_every_file_in_it_exist() {
    let (readme, makefile) = (file("README.md"), file("Makefile"));
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(": ").filter(|_| line.contains(" ## ")).map(|(target, _)| target))
        .filter(|target| *target != "help")
        .collect();
    let rows = table("## Development");
    let documented: BTreeSet<&str> = rows.keys().filter_map(|command| command.strip_prefix("make ")).collect();
    assert_eq!(documented, targets);

    for link in readme.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
        if let Some(anchor) = link.strip_prefix('#') {
            let anchors = readme
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"));
            assert!(anchors.into_iter().any(|heading| heading == anchor), "no heading for #{anchor}");
        } else if !link.starts_with("https://") {
            assert!(root().join(link).exists(), "{link}");
        }
    }
}
