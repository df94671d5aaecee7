//! A repository's tags (distribution-spec, "Listing Tags"), page by page.

use reqwest::header::LINK;
use serde::Deserialize;
use url::Url;

use super::Registry;
use super::endpoint::Request;
use super::error::{Problem, RegistryError};
use super::target::same_origin;
use crate::reference;

/// Tags asked for at once: what Docker Hub and distribution give at most.
const PAGE_TAGS: usize = 1000;
/// Longest page, in bytes: registries that know no pages send all of their tags in one.
const MAX_PAGE_BYTES: u64 = 16 << 20;
/// Tags of a repository, at most: the largest public ones have some ten thousand.
const MAX_TAGS: usize = 1_000_000;
/// Pages, at most: also where each has a tag or none.
const MAX_PAGES: usize = 10_000;

/// What no list of tags should say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagsProblem {
    /// The body.
    #[error("the answer is no list of tags")]
    Malformed,
    /// A tag that cannot be asked for.
    #[error("got the tag {0:?}, want at most 128 letters, digits, _ . and -")]
    Tag(String),
    /// A next page that is not the registry's own list.
    #[error("the next page is said to be at {0}, want the same list")]
    Elsewhere(String),
    /// Past `MAX_TAGS` or `MAX_PAGES`.
    #[error("the repository has more than {MAX_TAGS} tags, or pages without end")]
    TooMany,
}

impl Registry {
    /// All tags of the repository, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let mut tags = Vec::new();
        let mut path = format!("tags/list?n={PAGE_TAGS}");
        for _ in 0..MAX_PAGES {
            let (answer, body) =
                self.collect(&Request::get(&path), "a list of tags", MAX_PAGE_BYTES).await?;
            let refused = |problem| answer.refused(Problem::Tags(problem));
            tags.extend(parse(&body).map_err(refused)?);
            if tags.len() > MAX_TAGS {
                return Err(refused(TagsProblem::TooMany));
            }
            let links: Vec<&str> = answer.headers(LINK.as_str()).collect();
            let next = links.iter().find_map(|value| next_link(value));
            let Some(query) =
                next.map(|link| query(answer.url(), link)).transpose().map_err(refused)?
            else {
                return Ok(tags);
            };
            let next = format!("tags/list?{query}");
            if next == path {
                return Err(refused(TagsProblem::TooMany));
            }
            path = next;
        }
        let url = format!("tags/list?n={PAGE_TAGS}");
        let problem = Problem::Tags(TagsProblem::TooMany);
        Err(RegistryError::Refused { method: "GET", url, problem })
    }
}

fn parse(body: &[u8]) -> Result<Vec<String>, TagsProblem> {
    #[derive(Deserialize)]
    struct List {
        // Go writes an empty list as null.
        tags: Option<Vec<String>>,
    }
    let list: List = serde_json::from_slice(body).map_err(|_| TagsProblem::Malformed)?;
    let tags = list.tags.unwrap_or_default();
    match tags.iter().find(|tag| !reference::is_tag(tag)) {
        Some(wrong) => Err(TagsProblem::Tag(wrong.chars().take(128).collect())),
        None => Ok(tags),
    }
}

/// The target of `rel="next"` in a `Link` header (RFC 8288, section 3).
fn next_link(value: &str) -> Option<&str> {
    let mut rest = value;
    while let Some((target, after)) = rest.split_once('<')?.1.split_once('>') {
        // Parameters end at the next link; a target of its own may have commas.
        let (parameters, following) = match after.find(",").filter(|_| after.contains('<')) {
            Some(_) => after.split_at(after.find('<').unwrap_or(after.len())),
            None => (after, ""),
        };
        let is_next = |parameter: &str| {
            let parameter: String =
                parameter.chars().filter(|c| !c.is_whitespace() && *c != '"').collect();
            parameter.eq_ignore_ascii_case("rel=next")
        };
        if parameters.split([';', ',']).any(is_next) {
            return Some(target);
        }
        rest = following;
    }
    None
}

/// The query of the next page, which has to be one of the same list: whatever else a server says,
/// the request goes where the first one went.
fn query(page: &str, link: &str) -> Result<String, TagsProblem> {
    let elsewhere = || TagsProblem::Elsewhere(link.chars().take(200).collect());
    let page = Url::parse(page).map_err(|_| elsewhere())?;
    let next = page.join(link).map_err(|_| elsewhere())?;
    let is_same = same_origin(&page, &next) && page.path() == next.path();
    let has_login = !next.username().is_empty() || next.password().is_some();
    match next.query() {
        Some(query) if is_same && !has_login => Ok(query.to_owned()),
        _ => Err(elsewhere()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_every_writing() {
        for value in [
            r#"</v2/a/tags/list?last=x&n=2>; rel="next""#,
            r#"</v2/a/tags/list?last=x&n=2>;rel=next"#,
            r#"</other>; rel="prev", </v2/a/tags/list?last=x&n=2>; title="a,b"; rel="next""#,
            r#"</v2/a/tags/list?last=x&n=2>; REL="NEXT""#,
        ] {
            assert_eq!(next_link(value), Some("/v2/a/tags/list?last=x&n=2"), "{value}");
        }
        for value in ["", "<", "<a", r#"</x>; rel="last""#, "rel=next", "<x>, <y>, <z"] {
            assert_eq!(next_link(value), None, "{value}");
        }
    }

    #[test]
    fn only_the_same_list_is_gone_on_with() {
        let page = "https://r.example:5000/v2/a/tags/list?n=2";
        for link in
            ["/v2/a/tags/list?last=x", "?last=x", "https://r.example:5000/v2/a/tags/list?last=x"]
        {
            assert_eq!(query(page, link).unwrap(), "last=x", "{link}");
        }
        for link in [
            "https://evil.example/v2/a/tags/list?last=x",
            "http://r.example:5000/v2/a/tags/list?last=x",
            "https://u:p@r.example:5000/v2/a/tags/list?last=x",
            "//evil.example/v2/a/tags/list?last=x",
            "/v2/other/tags/list?last=x",
            "/v2/a/tags/list",
            "http://[",
        ] {
            assert!(matches!(query(page, link), Err(TagsProblem::Elsewhere(_))), "{link}");
        }
    }

    #[test]
    fn a_list_holds_tags() {
        assert_eq!(parse(br#"{"name":"a","tags":["v1","v2"]}"#).unwrap(), ["v1", "v2"]);
        assert_eq!(parse(br#"{"tags":null}"#).unwrap(), Vec::<String>::new());
        assert_eq!(parse(b"[]"), Err(TagsProblem::Malformed));
        assert_eq!(parse(br#"{"tags":["a\nb"]}"#), Err(TagsProblem::Tag("a\nb".into())));
    }
}
