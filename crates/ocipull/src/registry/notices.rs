//! What a registry says beside its answers: `Warning` lines (distribution-spec, "Warnings") and
//! how many more pulls it allows.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use reqwest::header::HeaderMap;

use crate::event::{Event, Observer};

/// Longest warning that is shown, in characters; the specification allows 4096 bytes.
const MAX_WARNING_CHARS: usize = 500;
/// Most notices of a run: a registry must not fill the screen.
const MAX_NOTICES: usize = 16;

/// Tells each notice once.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    told: Mutex<HashSet<String>>,
}

impl Notices {
    /// Tells what `headers` of an answer from `host` say.
    pub(crate) fn tell(&self, host: &str, headers: &HeaderMap, observer: &dyn Observer) {
        for value in headers.get_all("warning") {
            if let Some(text) = value.to_str().ok().and_then(warning) {
                let notice = format!("registry {host} warns: {text}");
                self.once(notice.clone(), &notice, observer);
            }
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |names: [&str; 2]| names.into_iter().find_map(|name| header(name).map(quota));
        let limit = number(["ratelimit-limit", "x-ratelimit-limit"]).flatten();
        let left = number(["ratelimit-remaining", "x-ratelimit-remaining"]).flatten();
        if let (Some((limit, window)), Some((left, _))) = (limit, left) {
            let per = window.map(|seconds| format!(" per {}", span(seconds))).unwrap_or_default();
            let notice =
                format!("registry {host} limits requests: {left} of {limit}{per} are left");
            // The number changes with every request; the first says it.
            self.once(format!("limit {host}"), &notice, observer);
        }
    }

    fn once(&self, key: String, notice: &str, observer: &dyn Observer) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_NOTICES && told.insert(key) {
            drop(told);
            observer.observe(&Event::Notice(notice));
        }
    }
}

/// The text of `299 - "text"`; other codes are between caches (RFC 7234, section 5.5).
fn warning(value: &str) -> Option<String> {
    let quoted = value.trim().strip_prefix("299 ")?.split_once('"')?.1;
    let mut text = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => text.extend(chars.next()),
            other => text.push(other),
        }
    }
    let text: String = text.chars().take(MAX_WARNING_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

/// `100;w=21600` or `100, 100;w=60`: the first number, and the window in seconds.
fn quota(value: &str) -> Option<(u64, Option<u64>)> {
    let number_end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, rest) = value.split_at(number_end);
    let window = rest.split([';', ',']).find_map(|part| part.trim().strip_prefix("w="));
    Some((number.parse().ok()?, window.and_then(|seconds| seconds.parse().ok())))
}

fn span(seconds: u64) -> String {
    match seconds {
        s if s >= 3600 && s % 3600 == 0 => format!("{} h", s / 3600),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Observer for Seen {
        fn observe(&self, event: &Event<'_>) {
            if let Event::Notice(text) = event {
                self.0.lock().unwrap().push((*text).to_owned());
            }
        }
    }

    fn told(lines: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let (notices, seen) = (Notices::default(), Seen::default());
        notices.tell("r.example", &headers, &seen);
        notices.tell("r.example", &headers, &seen);
        seen.0.into_inner().unwrap()
    }

    #[test]
    fn each_is_told_once() {
        let lines = [
            ("warning", r#"299 - "Your plan \"free\" ends""#),
            ("warning", r#"110 - "response is stale""#),
            ("warning", r#"299 - "second""#),
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
        ];
        assert_eq!(
            told(&lines),
            [
                "registry r.example warns: Your plan \"free\" ends",
                "registry r.example warns: second",
                "registry r.example limits requests: 76 of 100 per 6 h are left",
            ]
        );
    }

    #[test]
    fn odd_values_say_nothing() {
        for (name, value) in [
            ("warning", "299"),
            ("warning", "299 - \"\""),
            ("warning", "hello"),
            ("ratelimit-limit", "many"),
        ] {
            let lines = [(name, value), ("ratelimit-remaining", "")];
            assert_eq!(told(&lines), Vec::<String>::new(), "{value}");
        }
        let lines = [("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0")];
        assert_eq!(told(&lines), ["registry r.example limits requests: 0 of 60 are left"]);
    }

    #[test]
    fn a_registry_cannot_fill_the_screen() {
        let lines: Vec<String> = (0..100).map(|n| format!("299 - \"{n}\"")).collect();
        let lines: Vec<_> = lines.iter().map(|line| ("warning", line.as_str())).collect();
        assert_eq!(told(&lines).len(), MAX_NOTICES);
    }
}
