//! A repository's tags, as far as an error needs them. Pure.

use serde::Deserialize;

/// Below the repository. So many are enough to choose some from.
pub(crate) const PATH: &str = "tags/list?n=50";
/// Longest list that is looked at, in bytes; some registries send all whatever is asked for.
pub(crate) const MAX_BYTES: u64 = 1 << 20;
/// How many tags a hint names.
const MAX_SHOWN: usize = 5;
/// Longest tag, in bytes (distribution-spec, "Pulling manifests").
const MAX_TAG_BYTES: usize = 128;

/// Some tags of the list in `body`, none if it is no list.
pub(crate) fn some(body: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct List {
        tags: Option<Vec<String>>,
    }
    let list: Option<List> = serde_json::from_slice(body).ok();
    let tags = list.and_then(|list| list.tags).unwrap_or_default();
    tags.into_iter().filter(|tag| tag.len() <= MAX_TAG_BYTES).take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many() {
        assert_eq!(some(br#"{"name":"a","tags":["1","2"]}"#), ["1", "2"]);
        let many = format!(r#"{{"tags":[{}]}}"#, vec!["\"x\""; 999].join(","));
        assert_eq!(some(many.as_bytes()).len(), MAX_SHOWN);
        for body in [r#"{"tags":null}"#, "", "[]", r#"{"tags":[1]}"#] {
            assert_eq!(some(body.as_bytes()), Vec::<String>::new(), "{body}");
        }
    }
}
