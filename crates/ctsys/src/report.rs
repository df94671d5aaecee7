//! How a failure reaches a person: one line with the whole chain, one line with the remedy.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// An error that knows its remedy and the exit code it ends the program with.
///
/// `Display` says what failed without repeating its source; [`render`] joins the chain.
pub trait Explain: Error {
    /// What the user can do about it, as one line without a full stop; `None` when nothing helps.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The code the program ends with.
    fn exit_code(&self) -> u8 {
        1
    }
}

/// Writes the report of `error` to standard error and returns the program's exit code.
pub fn report(program: &str, error: &dyn Explain) -> ExitCode {
    // A closed standard error leaves nobody to tell; the exit code still says it.
    let _ = std::io::stderr().write_all(render(program, error).as_bytes());
    ExitCode::from(error.exit_code())
}

/// The report as text: `program: what: why`, then `hint: remedy` when there is one.
pub fn render(program: &str, error: &dyn Explain) -> String {
    let mut text = format!("{program}: {}\n", escape(&chain(error)));
    if let Some(hint) = error.hint() {
        let _ = writeln!(text, "hint: {}", escape(&hint));
    }
    text
}

/// A command line that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Usage {
    message: String,
    program: &'static str,
    exit_code: u8,
}

impl Usage {
    /// From what a parser of command lines says over several lines: the first paragraph is the
    /// cause, the rest repeats the help.
    pub fn new(program: &'static str, said: &str, exit_code: u8) -> Self {
        let cause = said.split("\n\n").next().unwrap_or(said);
        let cause = cause.strip_prefix("error: ").unwrap_or(cause);
        let message = cause.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { message, program, exit_code }
    }
}

impl Explain for Usage {
    fn hint(&self) -> Option<String> {
        Some(format!("see {} --help", self.program))
    }

    fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

/// The messages of `error` and its sources, joined by `: `.
///
/// A source whose text its parent already ends with (transparent wrappers) is not said twice.
pub fn chain(error: &(impl Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        if !text.ends_with(&message) {
            let _ = write!(text, ": {message}");
        }
        next = source.source();
    }
    text
}

/// `text` with control characters shown as escapes, so that no name from an image or a server can
/// move a terminal's cursor, change its title or forge a second line.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters, and the Unicode marks that reorder or hide the text around them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot pull")]
    struct Outer(#[source] std::io::Error);
    impl Explain for Outer {
        fn hint(&self) -> Option<String> {
            Some("check the name".into())
        }
        fn exit_code(&self) -> u8 {
            2
        }
    }

    #[test]
    fn joins_the_chain_and_adds_the_hint() {
        let error = Outer(std::io::Error::other("no route"));
        assert_eq!(
            render("ocipull", &error),
            "ocipull: cannot pull: no route\nhint: check the name\n"
        );
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let said = "error: the following required arguments were not provided:\n  <IMAGE>\n  <DEST>\n\nUsage: x\n";
        let text = render("ocipull", &Usage::new("ocipull", said, 2));
        assert_eq!(
            text,
            "ocipull: the following required arguments were not provided: <IMAGE> <DEST>\nhint: see ocipull --help\n"
        );
    }

    #[test]
    fn a_name_cannot_forge_a_line_or_a_colour() {
        assert_eq!(escape("a\nb\x1b[31mc\u{202e}"), "a\\nb\\u{1b}[31mc\\u{202e}");
        assert!(matches!(escape("plain é 漢"), Cow::Borrowed(_)));
    }
}
