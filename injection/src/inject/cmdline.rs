//! What Geth's command line says, whether it stands in a pod as a list or as a script for a shell.
//!
//! Both come down to words. What people write around Geth in pods is understood: `exec`, wrappers such as `tini`,
//! scripts within scripts, and variables that hold flags. Scripts that are files are not: nobody here can read them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::shell::{Word, split};

/// Programs that start the one named further on in the same command.
const WRAPPERS: [&str; 27] = [
    "exec",
    "env",
    "nohup",
    "time",
    "command",
    "sudo",
    "doas",
    "su-exec",
    "gosu",
    "setpriv",
    "chroot",
    "nice",
    "ionice",
    "chrt",
    "taskset",
    "stdbuf",
    "timeout",
    "tini",
    "dumb-init",
    "catatonit",
    "setsid",
    "sh",
    "bash",
    "ash",
    "dash",
    "busybox",
    "unshare",
];

/// Words after which a command begins in a shell.
const KEYWORDS: [&str; 9] = ["if", "then", "else", "elif", "while", "until", "do", "!", "{"];

/// Subcommands with which Geth does a task and ends, or talks to another Geth (cmd/geth/main.go, v1.17.5, and older
/// ones). `console` and `js` are missing on purpose: with them Geth is a full node.
const TASKS: [&str; 30] = [
    "init",
    "import",
    "export",
    "import-history",
    "export-history",
    "import-preimages",
    "export-preimages",
    "removedb",
    "dump",
    "dumpgenesis",
    "dumpconfig",
    "prune-history",
    "download-era",
    "account",
    "wallet",
    "attach",
    "version",
    "version-check",
    "license",
    "db",
    "show-deprecated-flags",
    "snapshot",
    "bintrie",
    "verkle",
    "makecache",
    "makedag",
    "logtest",
    "help",
    "copydb",
    "inspect",
];

/// Scripts that hold scripts: `sh -c "su geth -c 'geth ...'"` is as deep as anybody goes.
const MAX_DEPTH: usize = 3;

/// The bytes of command, arguments and their variables that are read. Linux passes a program no argument longer than
/// this (`MAX_ARG_STRLEN`, include/uapi/linux/binfmts.h), and people write a hundredth of it.
const MAX_LENGTH: usize = 128 * 1024;

/// The networks that Geth knows by name and other flags without a value that stand before a subcommand.
const SWITCHES: [&str; 7] = ["mainnet", "sepolia", "holesky", "hoodi", "goerli", "dev", "http"];

/// The value that the command line gives a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// What stands there.
    Value(String),
    /// The flag is there, its value cannot be told; the text that stands in its place.
    Unknown(String),
}

/// All that can be told from the command and the arguments of a container.
#[derive(Clone, Debug, Default)]
pub(super) struct CommandLine<'a> {
    /// The words after `geth`, once for every time it is started as a node.
    nodes: Vec<Vec<Word<'a>>>,
    /// Every word there is.
    words: Vec<Word<'a>>,
    /// `geth` itself is written somewhere, as a node or for a task.
    pub(super) names_geth: bool,
    /// The container has no command: what runs is the image's entrypoint with these arguments.
    pub(super) entrypoint: bool,
    /// The first word, without its directory; empty if there is no command.
    pub(super) program: &'a str,
}

impl<'a> CommandLine<'a> {
    /// Reads `command` and `args` of a container.
    pub(super) fn of(container: &'a Value) -> Self {
        let list = |field: &str| -> Vec<Word<'a>> {
            let items = container[field].as_array().map(Vec::as_slice).unwrap_or_default();
            // Kubernetes expands $(X) in these, and Geth expands $X in paths.
            items
                .iter()
                .filter_map(Value::as_str)
                .map(|text| Word { text: text.into(), unknown: text.contains('$') })
                .collect()
        };
        let (command, args) = (list("command"), list("args"));
        let mut line = Self {
            entrypoint: command.is_empty(),
            program: container["command"][0].as_str().map(base_name).unwrap_or_default(),
            ..Self::default()
        };
        let variables = script_variables(container);
        let texts = command.iter().chain(&args).map(|word| word.text.as_ref());
        if texts.chain(variables.iter().map(|(_, value)| *value)).map(str::len).sum::<usize>() > MAX_LENGTH {
            // As with a script that is a file: nobody here reads it.
            return line;
        }
        line.read(&[command, args.clone()].concat(), 0);
        for (_, value) in variables {
            split(value).iter().for_each(|words| line.read(words, 1));
        }
        if line.entrypoint && !line.names_geth && !is_task(&args) {
            line.nodes.push(args);
        }
        line
    }

    /// Whether Geth is started as a node, as far as this tells (an image's entrypoint is taken for Geth).
    pub(super) fn starts_a_node(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The value of a flag, written `--name value`, `--name=value`, or with one dash. As for Geth, the last one counts.
    pub(super) fn flag(&self, name: &str) -> Option<Flag> {
        // A script may keep flags in a variable and pass that; then they are among its words but not behind `geth`.
        self.nodes.iter().filter_map(|words| flag_in(words, name)).next_back().or_else(|| flag_in(&self.words, name))
    }

    /// Whether a flag that needs no value is there and on.
    pub(super) fn switch(&self, name: &str) -> bool {
        let on = |word: &Word<'_>| {
            let flag = word.text.strip_prefix("--").or_else(|| word.text.strip_prefix('-'));
            flag.and_then(|flag| flag.strip_prefix(name)).is_some_and(|rest| rest.is_empty() || rest == "=true")
        };
        self.words.iter().any(on)
    }

    fn read(&mut self, words: &[Word<'a>], depth: usize) {
        if let Some(after) = after_geth(words) {
            self.names_geth = true;
            if !is_task(after) {
                self.nodes.push(after.to_vec());
            }
        }
        self.words.extend_from_slice(words);
        if depth == MAX_DEPTH {
            return;
        }
        for Word { text, .. } in words {
            let script = text.contains(char::is_whitespace).then_some(text.as_ref());
            for part in script.into_iter().chain(assignment(text)) {
                split(part).iter().for_each(|words| self.read(words, depth + 1));
            }
        }
    }
}

fn flag_in(words: &[Word<'_>], name: &str) -> Option<Flag> {
    let of = |(index, word): (usize, &Word<'_>)| -> Option<Flag> {
        let rest = word.text.strip_prefix("--").or_else(|| word.text.strip_prefix('-'))?.strip_prefix(name)?;
        let (text, unknown) = match rest.strip_prefix('=') {
            Some(value) => (value, word.unknown),
            None if rest.is_empty() => {
                words.get(index + 1).map_or(("", true), |next| (next.text.as_ref(), next.unknown))
            }
            None => return None,
        };
        Some(if unknown { Flag::Unknown(text.to_owned()) } else { Flag::Value(text.to_owned()) })
    };
    words.iter().enumerate().filter_map(of).next_back()
}

fn is_task(words: &[Word<'_>]) -> bool {
    // Behind `--datadir` stands a directory, whatever it is called.
    let takes_value = |word: &Word<'_>| {
        let flag = word.text.strip_prefix("--").or_else(|| word.text.strip_prefix('-'));
        flag.is_some_and(|flag| !flag.is_empty() && !flag.contains('=') && !SWITCHES.contains(&flag))
    };
    let before = |index: usize| index.checked_sub(1).and_then(|index| words.get(index));
    let task = |(index, word): (usize, &Word<'_>)| {
        TASKS.contains(&word.text.as_ref()) && !before(index).is_some_and(takes_value)
    };
    words.iter().enumerate().any(task)
}

/// The variables of a container that its command or arguments refer to, with their place in `env`: a shell makes words of
/// the values, so these may be flags like any others. Those that come from elsewhere cannot be seen.
pub(super) fn script_variables(container: &Value) -> Vec<(usize, &str)> {
    let list = |field: &str| container[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = list("command").iter().chain(list("args")).filter_map(Value::as_str);
    let mut names: BTreeSet<&str> = texts.flat_map(references).collect();
    let mut found = Vec::new();
    // Of several entries with one name, the last counts.
    for (at, entry) in list("env").iter().enumerate().rev() {
        if names.remove(entry["name"].as_str().unwrap_or_default())
            && !entry["valueFrom"].is_object()
            && let Some(value) = entry["value"].as_str()
        {
            found.push((at, value));
        }
    }
    found
}

/// The names in `$NAME`, `${NAME...}` and, as Kubernetes writes it, `$(NAME)`.
fn references(text: &str) -> impl Iterator<Item = &str> {
    text.split('$').skip(1).filter_map(|rest| {
        let name = rest.strip_prefix(['{', '(']).unwrap_or(rest);
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        let closed = !rest.starts_with('(') || name[end..].starts_with(')');
        (end > 0 && closed).then_some(&name[..end])
    })
}

/// The words behind `geth`, if this command starts it.
fn after_geth<'w, 'a>(words: &'w [Word<'a>]) -> Option<&'w [Word<'a>]> {
    let begin =
        words.iter().position(|word| assignment(&word.text).is_none() && !KEYWORDS.contains(&word.text.as_ref()))?;
    let command = &words[begin..];
    // A word with blanks is a script within the command; it is read on its own.
    let named = |word: &Word<'_>| base_name(&word.text) == "geth" && !word.text.contains(char::is_whitespace);
    let wrapped = command.first().is_some_and(|word| WRAPPERS.contains(&base_name(&word.text)));
    let at = command.iter().position(named).filter(|at| *at == 0 || wrapped)?;
    command.get(at + 1..)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What a word of the form `NAME=value` assigns.
fn assignment(word: &str) -> Option<&str> {
    let (name, value) = word.split_once('=')?;
    let name = name.strip_suffix('+').unwrap_or(name);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (begins && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// For as long as the test runs, so that the container need not be kept beside it.
    fn of(container: Value) -> CommandLine<'static> {
        CommandLine::of(Box::leak(Box::new(container)))
    }

    fn script(text: &str) -> CommandLine<'static> {
        of(json!({"command": ["sh", "-c", text]}))
    }

    fn value(text: &str) -> Option<Flag> {
        Some(Flag::Value(text.to_owned()))
    }

    #[test]
    fn is_a_flag_found_however_it_is_written() {
        for args in [
            json!(["--ipcpath=/x/geth.ipc"]),
            json!(["--ipcpath", "/x/geth.ipc"]),
            json!(["-ipcpath=/x/geth.ipc"]),
            json!(["-ipcpath", "/x/geth.ipc"]),
            json!(["--ipcpath=/early", "--http", "--ipcpath=/x/geth.ipc"]),
        ] {
            let list = of(json!({"args": args}));
            assert_eq!(list.flag("ipcpath"), value("/x/geth.ipc"), "{args}");
            let words: Vec<&str> = args.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
            assert_eq!(script(&format!("exec geth {}", words.join(" "))).flag("ipcpath"), value("/x/geth.ipc"));
        }
    }

    #[test]
    fn is_geth_found_in_the_scripts_that_people_write() {
        for text in [
            "geth --ipcpath=/x",
            "exec geth --ipcpath=/x",
            "set -e; /usr/local/bin/geth --ipcpath /x",
            "[ -d /data/geth ] || geth init --datadir /data /genesis.json && exec geth \\\n  --http \\\n  --ipcpath=/x",
            "# don't stop\ngeth --ipcpath='/x' 2>&1 | tee /log",
            "if true; then geth --ipcpath=\"/x\" ; fi",
            "FOO=bar exec su-exec geth geth --http --ipcpath=/x",
            "ARGS=\"--http --ipcpath=/x\"\nexec geth $ARGS",
            "bash -c 'geth --ipcpath=/x'",
            "cat > /run.sh <<'EOF'\necho don't\nexec geth --ipcpath=/x\nEOF\nsh /run.sh",
            "cat <<-A >/a <<B > /b\none\nA\nexec geth --ipcpath=/x\nB\n",
            "geth --ipcpath=/x --identity 'it''s me'",
            "geth > /log --ipcpath=/x",
            "ls /data/geth; exec geth --ipcpath=/x",
        ] {
            let line = script(text);
            assert!(line.starts_a_node(), "{text}");
            assert_eq!(line.flag("ipcpath"), value("/x"), "{text}");
        }
    }

    #[test]
    fn is_a_value_that_only_a_shell_knows_marked_as_unknown() {
        for text in ["$X/geth.ipc", "${X}/geth.ipc", "\"$X\"", "$(cat /path)", "`cat /path with spaces`", "'$X'"] {
            let flag = script(&format!("geth --ipcpath={text} --http")).flag("ipcpath");
            // Geth itself expands variables in paths, so single quotes do not help.
            let known = matches!(&flag, Some(Flag::Value(value)) if !value.contains('$'));
            assert!(flag.is_some() && !known, "{text}: {flag:?}");
        }
        assert_eq!(
            of(json!({"args": ["--ipcpath=$(DIR)/geth.ipc"]})).flag("ipcpath"),
            Some(Flag::Unknown("$(DIR)/geth.ipc".to_owned()))
        );
        assert_eq!(script("geth --ipcpath").flag("ipcpath"), Some(Flag::Unknown(String::new())));
    }

    #[test]
    fn is_a_task_told_from_a_node() {
        for text in ["geth attach /data/geth.ipc", "while true; do geth attach --exec eth.syncing; sleep 1; done"] {
            assert!(script(text).names_geth && !script(text).starts_a_node(), "{text}");
        }
        for text in ["echo geth", "apk add geth", "/geth/start.sh", "sleep 1", "ls /data/geth"] {
            assert!(!script(text).starts_a_node(), "{text}");
        }
        assert!(!of(json!({"args": ["--datadir", "/data", "init", "/genesis.json"]})).starts_a_node());
        assert!(!of(json!({"args": ["--sepolia", "init", "/genesis.json"]})).starts_a_node());
        assert!(of(json!({"args": ["--syncmode", "snap", "console"]})).starts_a_node());
        for flags in ["--datadir db", "-datadir snapshot --http", "--identity version"] {
            assert!(script(&format!("exec geth {flags}")).starts_a_node(), "{flags}");
            let args: Vec<&str> = flags.split(' ').collect();
            assert!(of(json!({"args": args})).starts_a_node(), "{flags}");
        }
        assert!(!script("geth --datadir=x db").starts_a_node());
        assert!(of(json!({})).starts_a_node());
        assert!(of(json!({"command": ["/sbin/tini", "--", "geth"]})).starts_a_node());
        assert!(of(json!({"command": ["sh", "-c", "geth"]})).starts_a_node());
    }

    #[test]
    fn are_flags_seen_in_the_variables_that_a_script_uses() {
        for text in ["$EXTRA", "\"${EXTRA}\"", "${EXTRA:-}", "$(EXTRA)"] {
            let env = json!([{"name": "EXTRA", "value": "--ipcpath=/early"},
                             {"name": "EXTRA", "value": "--http --ipcpath=/x"}, {"name": "EXTRAS", "value": "--sepolia"}]);
            let line = of(json!({"command": ["sh", "-c", format!("exec geth {text}")], "env": env}));
            assert_eq!((line.flag("ipcpath"), line.switch("http"), line.switch("sepolia")), (value("/x"), true, false));
        }
        let start = json!({"command": ["sh", "-c", "exec $START"], "env": [{"name": "START", "value": "geth --http"}]});
        assert!(of(start).starts_a_node());
        let unused = json!({"command": ["geth"], "env": [{"name": "EXTRA", "value": "--ipcpath=/x"}]});
        assert_eq!(of(unused).flag("ipcpath"), None);
        let elsewhere = json!({"command": ["sh", "-c", "geth $EXTRA"],
                               "env": [{"name": "EXTRA", "value": "--http", "valueFrom": {"configMapKeyRef": {}}}]});
        assert!(!of(elsewhere).switch("http"));
    }

    #[test]
    fn is_a_command_line_that_no_program_can_get_left_unread() {
        let padding = |length: usize| "x".repeat(length);
        let args = |length: usize| of(json!({"command": ["geth"], "args": [padding(length)]}));
        assert!(args(MAX_LENGTH - "geth".len()).starts_a_node());
        assert!(!args(MAX_LENGTH).starts_a_node());
        let variable = json!([{"name": "X", "value": padding(MAX_LENGTH)}]);
        assert!(!of(json!({"command": ["sh", "-c", "geth $X"], "env": variable})).starts_a_node());
    }
}
