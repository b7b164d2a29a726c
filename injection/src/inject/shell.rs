//! A tokenizer for the shell scripts in which people start Geth.
//!
//! It understands quotes, escapes, continued lines, comments, redirections and here-documents, and runs nothing: the
//! value of a variable or of `$(...)` stays unknown and is marked as such. Not understood: functions, `case`
//! patterns and arithmetic, whose words come out as commands that nobody looks for.

use std::borrow::Cow;
use std::collections::VecDeque;

/// One word of a command, without its quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: Cow<'a, str>,
    /// The text holds a variable or a command substitution, so it is not what Geth will see.
    pub(super) unknown: bool,
}

/// Here-documents within here-documents that are read; what lies deeper is not.
const MAX_DEPTH: usize = 3;

/// Splits a script into its simple commands.
pub(super) fn split(script: &str) -> Vec<Vec<Word<'static>>> {
    split_at(script, 0)
}

fn split_at(script: &str, depth: usize) -> Vec<Vec<Word<'static>>> {
    let mut splitter = Splitter { rest: script.chars().collect::<Vec<_>>().into(), depth, ..Splitter::default() };
    splitter.run();
    splitter.commands.retain(|command| !command.is_empty());
    splitter.commands
}

#[derive(Default)]
struct Splitter {
    rest: VecDeque<char>,
    /// The word being read; `Some("")` once a quote has begun it.
    word: Option<Word<'static>>,
    command: Vec<Word<'static>>,
    commands: Vec<Vec<Word<'static>>>,
    /// The next word is the target of a redirection, not part of the command.
    redirected: bool,
    /// The next word is the delimiter of a here-document.
    heredoc: bool,
    /// Delimiters of here-documents that begin after this line.
    pending: Vec<String>,
    /// How many here-documents this script lies in.
    depth: usize,
}

impl Splitter {
    fn run(&mut self) {
        while let Some(c) = self.rest.pop_front() {
            match c {
                '\\' => match self.rest.pop_front() {
                    Some('\n') | None => {}
                    Some(escaped) => self.push(escaped),
                },
                '\'' => {
                    self.word.get_or_insert_default();
                    while let Some(quoted) = self.rest.pop_front().filter(|c| *c != '\'') {
                        self.push(quoted);
                    }
                }
                '"' => self.double_quoted(),
                '$' => self.substitution(),
                '`' => self.backquoted(),
                '#' if self.word.is_none() => {
                    while self.rest.front().is_some_and(|c| *c != '\n') {
                        self.rest.pop_front();
                    }
                }
                ' ' | '\t' | '\r' => self.end_word(),
                '<' | '>' => self.redirection(c),
                '\n' => {
                    self.end_command();
                    self.here_documents();
                }
                ';' | '&' | '|' | '(' | ')' => self.end_command(),
                other => self.push(other),
            }
        }
        self.end_command();
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().text.to_mut().push(c);
    }

    fn push_unknown(&mut self, c: char) {
        self.push(c);
        self.word.get_or_insert_default().unknown = true;
    }

    fn double_quoted(&mut self) {
        self.word.get_or_insert_default();
        while let Some(c) = self.rest.pop_front().filter(|c| *c != '"') {
            match c {
                '\\' => match self.rest.pop_front() {
                    Some('\n') | None => {}
                    Some(escaped @ ('$' | '`' | '"' | '\\')) => self.push(escaped),
                    Some(other) => {
                        self.push('\\');
                        self.push(other);
                    }
                },
                '$' => self.substitution(),
                '`' => self.backquoted(),
                other => self.push(other),
            }
        }
    }

    /// What follows a `$`; copied as it stands.
    fn substitution(&mut self) {
        self.push_unknown('$');
        let (open, close) = match self.rest.front() {
            Some('(') => ('(', ')'),
            Some('{') => ('{', '}'),
            _ => return,
        };
        let mut depth = 0_usize;
        while let Some(c) = self.rest.pop_front() {
            self.push(c);
            if c == open {
                depth += 1;
            } else if c == close {
                depth -= 1;
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn backquoted(&mut self) {
        self.push_unknown('`');
        while let Some(c) = self.rest.pop_front() {
            self.push(c);
            if c == '`' {
                return;
            }
        }
    }

    fn redirection(&mut self, first: char) {
        // In `2>&1` the digit belongs to the redirection.
        if self.word.as_ref().is_some_and(|word| word.text.chars().all(|c| c.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word();
        let mut operator = String::from(first);
        while let Some(c @ ('<' | '>' | '&' | '|' | '-')) = self.rest.front().copied() {
            self.rest.pop_front();
            operator.push(c);
        }
        self.heredoc = operator == "<<" || operator == "<<-";
        self.redirected = true;
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if std::mem::take(&mut self.heredoc) {
            self.pending.push(word.text.into_owned());
            self.redirected = false;
        } else if !std::mem::take(&mut self.redirected) {
            self.command.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        (self.redirected, self.heredoc) = (false, false);
        self.commands.push(std::mem::take(&mut self.command));
    }

    /// The text of a here-document is taken for a script of its own: it is fed to a shell, or becomes a file that is
    /// run. Where it is neither, nothing in it looks like Geth.
    fn here_documents(&mut self) {
        for delimiter in std::mem::take(&mut self.pending) {
            let mut body = String::new();
            while !self.rest.is_empty() {
                let length = self.rest.iter().position(|c| *c == '\n').map_or(self.rest.len(), |at| at + 1);
                let line: String = self.rest.drain(..length).collect();
                if line.trim() == delimiter {
                    break;
                }
                body.push_str(&line);
            }
            if self.depth < MAX_DEPTH {
                self.commands.extend(split_at(&body, self.depth + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<Vec<String>> {
        split(script).into_iter().map(|words| words.into_iter().map(|word| word.text.into_owned()).collect()).collect()
    }

    #[test]
    fn are_commands_and_words_those_that_a_shell_sees() {
        for (script, expected) in [
            ("a b;c&&d|e", vec![vec!["a", "b"], vec!["c"], vec!["d"], vec!["e"]]),
            ("a \\\n b # not c\nd", vec![vec!["a", "b"], vec!["d"]]),
            ("a 'b c'\"d e\"\\ f '' g#h", vec![vec!["a", "b cd e f", "", "g#h"]]),
            ("a 2>&1 >/dev/null b </x", vec![vec!["a", "b"]]),
            ("(a; b) &", vec![vec!["a"], vec!["b"]]),
            ("a $(b c; d) ${e f} `g h`", vec![vec!["a", "$(b c; d)", "${e f}", "`g h`"]]),
            ("cat <<E >f\nit's\nE\nb", vec![vec!["cat"], vec!["its\n"], vec!["b"]]),
        ] {
            assert_eq!(texts(script), expected, "{script}");
        }
    }

    #[test]
    fn is_a_word_with_a_variable_marked_but_not_one_in_single_quotes() {
        let unknown = |script: &str| split(script)[0][0].unknown;
        assert!(unknown("a$b") && unknown("\"$b\"") && unknown("`b`") && unknown("$(b)"));
        assert!(!unknown("'$b'") && !unknown("\\$b"));
    }

    #[test]
    fn is_a_here_document_in_many_others_no_way_to_use_up_the_stack() {
        assert_eq!(split(&"<<A\n".repeat(100_000)), Vec::<Vec<Word<'_>>>::new());
        let nested = "<<A\n<<B\n<<C\n";
        assert_eq!(texts(&format!("{nested}geth\n")), [["geth"]]);
        assert_eq!(split(&format!("{nested}<<D\ngeth\n")), Vec::<Vec<Word<'_>>>::new());
    }

    #[test]
    fn does_any_text_come_to_an_end() {
        for text in
            ["'", "\"", "`", "$(", "${", "\\", "<<", "<<E", "<<E\n", "geth <<<x --a", ")(", "((((", "$((1+(2)))"]
        {
            let _ = split(text);
        }
    }
}
