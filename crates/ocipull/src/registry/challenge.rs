//! `WWW-Authenticate`: which ways in a registry offers (RFC 9110, section 11.6.1). Pure.

/// Longest header line that is looked at, in bytes.
const MAX_HEADER_BYTES: usize = 8 << 10;

/// One way in that ocipull knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from a realm (distribution's "Token Authentication Specification").
    Bearer {
        /// Where tokens are handed out.
        realm: String,
        /// For whom, if stated.
        service: Option<String>,
        /// For what, if stated.
        scope: Option<String>,
    },
    /// User and password (RFC 7617).
    Basic,
}

/// The challenges of all header lines, those of unknown schemes left out.
pub(crate) fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    lines.into_iter().filter(|line| line.len() <= MAX_HEADER_BYTES).flat_map(parse_line).collect()
}

/// One line may hold several challenges; a comma separates both challenges and parameters, so
/// whether a word starts the one or the other is seen by what follows it.
fn parse_line(line: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word_end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        if word.is_empty() && after.is_empty() {
            break;
        }
        match after.trim_start().strip_prefix('=') {
            Some(value) => {
                let (value, after) = take_value(value.trim_start());
                if let Some((_, parameters)) = challenges.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            None => {
                challenges.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    challenges.into_iter().filter_map(known).collect()
}

/// A quoted string with its escapes resolved, or a token; and what follows.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn known((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get =
        |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    match scheme.as_str() {
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        "basic" => Some(Challenge::Basic),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn docker_hubs() {
        let line = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/centos:pull""#;
        assert_eq!(
            parse([line]),
            [bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/centos:pull")
            )]
        );
    }

    #[test]
    fn several_lines_and_several_in_a_line() {
        let found = parse([
            r#"Negotiate, Basic realm="a, b=c", bearer realm=https://x/t , service = "s""#,
            "BASIC",
        ]);
        assert_eq!(
            found,
            [Challenge::Basic, bearer("https://x/t", Some("s"), None), Challenge::Basic]
        );
    }

    #[test]
    fn commas_and_quotes_inside_quotes() {
        let line = r#"Bearer realm="https://x/t",scope="repository:a:pull,push",error="a\"b""#;
        assert_eq!(parse([line]), [bearer("https://x/t", None, Some("repository:a:pull,push"))]);
    }

    #[test]
    fn rubbish_ends_and_gives_nothing() {
        for line in ["", ",,,", "Bearer", "Bearer realm", "=", "\"", "Bearer service=\"x", "= = ="]
        {
            assert_eq!(parse([line]), [], "{line:?}");
        }
    }
}
