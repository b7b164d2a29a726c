//! Is every line of the program JSON where that is asked for, even when it cannot start?

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall fail where it stands")]

use std::process::Command;

use serde_json::Value;

fn lines(variables: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_sidecar"))
        .env_clear()
        .envs(variables.iter().copied())
        .env("PEERING_LOG_FORMAT", "json")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    (output.status.code(), text.lines().map(parse).collect())
}

#[test]
fn is_a_wrong_configuration_told_in_one_line_of_json() {
    let (code, lines) = lines(&[("LOGGING", "loud"), ("IPC_PATH", "geth.ipc")]);
    assert_eq!(code, Some(64));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let message = lines[0]["message"].as_str().unwrap();
    assert!(message.contains("LOGGING=\"loud\"") && message.contains("IPC_PATH"), "{message}");
}

#[test]
fn is_a_missing_service_account_told_in_one_line_of_json() {
    let variables = [("PEERING_POD_NAME", "geth-0"), ("PEERING_POD_IP", "127.0.0.1"), ("PEERING_HTTP_PORT", "0")];
    let (code, lines) = lines(&variables);
    assert_eq!(code, Some(1));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0]["message"].as_str().unwrap().contains("service account"), "{lines:?}");
    assert_eq!(lines[0]["level"], "ERROR");
}
