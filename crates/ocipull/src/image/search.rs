//! The way from an index to one platform's image, through indexes inside of it. Pure: who searches
//! fetches.

use std::collections::{HashSet, VecDeque};

use oci_spec::image::{Descriptor, Digest};

use super::{ImageError, Index};
use crate::platform::Platform;

/// How deep indexes may be nested. Those in use have one inside of another at most.
pub const MAX_INDEX_DEPTH: usize = 8;
/// How many indexes a search may read, however they are nested: each may have
/// [`MAX_MANIFEST_BYTES`](super::MAX_MANIFEST_BYTES) and costs a request.
pub const MAX_INDEXES: usize = 64;
/// How many platforms are named where none of them suits.
const MAX_SHOWN_PLATFORMS: usize = 64;

/// A search for the image that suits a platform best.
#[derive(Debug)]
pub struct Search<'a> {
    wanted: &'a Platform,
    best: Option<(usize, Platform, Descriptor)>,
    unlabelled: Option<Descriptor>,
    pending: VecDeque<(usize, Descriptor)>,
    seen: HashSet<Digest>,
    depth: usize,
    read: usize,
    platforms: Vec<Platform>,
}

/// What was found.
#[derive(Debug)]
pub struct Choice {
    /// As the index says; `None` where only the image's config can say it.
    pub platform: Option<Platform>,
    /// Of the manifest.
    pub descriptor: Descriptor,
}

impl<'a> Search<'a> {
    /// Begins with `index`.
    pub fn new(wanted: &'a Platform, index: &Index) -> Self {
        let mut search = Self {
            wanted,
            best: None,
            unlabelled: None,
            pending: VecDeque::new(),
            seen: HashSet::new(),
            depth: 0,
            read: 0,
            platforms: Vec::new(),
        };
        search.look(index);
        search
    }

    /// The index to read next, for [`Search::look`]; `None` where that could find nothing better.
    /// One that was read already, as in a loop, is not read again.
    pub fn next_index(&mut self) -> Result<Option<Descriptor>, ImageError> {
        if matches!(self.best, Some((0, ..))) {
            return Ok(None);
        }
        let Some((depth, descriptor)) = self.pending.pop_front() else { return Ok(None) };
        if depth > MAX_INDEX_DEPTH {
            return Err(ImageError::IndexDepth(MAX_INDEX_DEPTH));
        }
        self.read += 1;
        if self.read > MAX_INDEXES {
            return Err(ImageError::IndexCount(MAX_INDEXES));
        }
        self.depth = depth;
        Ok(Some(descriptor))
    }

    /// Takes the entries of the index that was asked for. The closest variant counts, and the first
    /// of equals.
    pub fn look(&mut self, index: &Index) {
        for entry in index.entries() {
            let descriptor = &entry.descriptor;
            let distance = entry.platform.as_ref().map(|platform| self.wanted.suits(platform));
            if entry.is_index() {
                let may_lead_there = distance.is_none_or(|distance| distance.is_some());
                // One more than may be read is enough to say that there are too many.
                let has_room = self.read + self.pending.len() <= MAX_INDEXES;
                if may_lead_there && has_room && self.seen.insert(descriptor.digest().clone()) {
                    self.pending.push_back((self.depth + 1, descriptor.clone()));
                }
                continue;
            }
            let Some(platform) = &entry.platform else {
                self.unlabelled.get_or_insert_with(|| descriptor.clone());
                continue;
            };
            if self.platforms.len() < MAX_SHOWN_PLATFORMS && !self.platforms.contains(platform) {
                self.platforms.push(platform.clone());
            }
            if let Some(distance) = distance.flatten()
                && self.best.as_ref().is_none_or(|(best, ..)| distance < *best)
            {
                self.best = Some((distance, platform.clone(), descriptor.clone()));
            }
        }
    }

    /// What was found: an entry that says no platform only where no other suits.
    pub fn finish(self) -> Result<Choice, ImageError> {
        if let Some((_, platform, descriptor)) = self.best {
            return Ok(Choice { platform: Some(platform), descriptor });
        }
        match self.unlabelled {
            Some(descriptor) => Ok(Choice { platform: None, descriptor }),
            None => Err(ImageError::NoPlatform { want: self.wanted.clone(), got: self.platforms }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Document;
    use super::*;
    use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
    use serde_json::{Value, json};

    fn digest(n: usize) -> String {
        format!("sha256:{n:064x}")
    }

    fn entry(n: usize, platform: &str) -> Value {
        let mut entry = json!({"mediaType": OCI_IMAGE_MEDIA_TYPE, "size": 2, "digest": digest(n)});
        let mut words = platform.split('/');
        if let (Some(os), Some(architecture)) = (words.next(), words.next()) {
            entry["platform"] = json!({"os": os, "architecture": architecture});
            if let Some(variant) = words.next() {
                entry["platform"]["variant"] = variant.into();
            }
        }
        entry
    }

    fn nested(n: usize, platform: &str) -> Value {
        let mut entry = entry(n, platform);
        entry["mediaType"] = OCI_IMAGE_INDEX_MEDIA_TYPE.into();
        entry
    }

    fn index(entries: impl Into<Value>) -> Index {
        let body = json!({"schemaVersion": 2, "manifests": entries.into()}).to_string();
        match Document::parse(body.as_bytes(), OCI_IMAGE_INDEX_MEDIA_TYPE).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("an index was read as a manifest"),
        }
    }

    /// Which entry is chosen for `wanted`, when nested indexes are `inner` by the digest's number.
    fn choose(wanted: &str, outer: &Index, inner: &[(usize, Index)]) -> Result<usize, ImageError> {
        let wanted = wanted.parse().unwrap();
        let mut search = Search::new(&wanted, outer);
        while let Some(descriptor) = search.next_index()? {
            let digest =
                |(n, _): &&(usize, Index)| self::digest(*n) == descriptor.digest().as_ref();
            search.look(&inner.iter().find(digest).expect("a known index").1);
        }
        let chosen = search.finish()?.descriptor.digest().digest().to_owned();
        Ok(usize::from_str_radix(&chosen, 16).unwrap())
    }

    #[test]
    fn the_closest_platform_is_chosen_and_attestations_are_skipped() {
        let mut about = entry(6, "linux/arm64");
        about["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let index = index(vec![
            entry(1, "unknown/unknown"),
            about,
            entry(2, "linux/arm/v6"),
            entry(3, "linux/arm/v7"),
            entry(4, "linux/arm64/v8"),
            entry(5, "linux/arm64"),
        ]);
        for (wanted, want) in
            [("linux/arm/v7", 3), ("linux/arm/v8", 3), ("linux/arm/v6", 2), ("linux/arm64", 4)]
        {
            assert_eq!(choose(wanted, &index, &[]).unwrap(), want, "{wanted}");
        }
        let error = choose("linux/s390x", &index, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for platform linux/s390x: got linux/arm/v6, linux/arm/v7, linux/arm64"
        );
        let error = choose("linux/s390x", &self::index(Value::Null), &[]).unwrap_err();
        assert!(error.to_string().ends_with("got none"), "{error}");
    }

    #[test]
    fn an_entry_without_a_platform_is_the_last_resort() {
        let index = index(vec![entry(1, ""), entry(2, "linux/arm64"), entry(3, "")]);
        assert_eq!(choose("linux/arm64", &index, &[]).unwrap(), 2);
        assert_eq!(choose("linux/amd64", &index, &[]).unwrap(), 1);
    }

    #[test]
    fn indexes_inside_are_read_only_where_they_may_help() {
        let outer = index(vec![nested(10, "linux/arm64"), nested(11, ""), entry(1, "linux/amd64")]);
        // No index is known: reading one would fail.
        assert_eq!(choose("linux/amd64", &outer, &[]).unwrap(), 1);
        let inner = [(11, index(vec![entry(2, "linux/amd64/v2"), entry(3, "linux/amd64/v3")]))];
        assert_eq!(choose("linux/amd64/v3", &outer, &inner).unwrap(), 3);
    }

    #[test]
    fn loops_end_and_depth_and_count_are_bounded() {
        let loops = index(vec![nested(10, ""), nested(10, "")]);
        let inner = [(10, index(vec![nested(10, ""), entry(1, "linux/arm64")]))];
        assert_eq!(choose("linux/arm64", &loops, &inner).unwrap(), 1);

        let deep: Vec<_> = (1..20).map(|n| (n, index(vec![nested(n + 1, "")]))).collect();
        let error = choose("linux/arm64", &index(vec![nested(1, "")]), &deep).unwrap_err();
        assert!(matches!(error, ImageError::IndexDepth(_)), "{error}");

        let wide = index((1..=MAX_INDEXES + 1).map(|n| nested(n, "")).collect::<Vec<_>>());
        let empty: Vec<_> = (1..=MAX_INDEXES + 1).map(|n| (n, index(Value::Null))).collect();
        let error = choose("linux/arm64", &wide, &empty).unwrap_err();
        assert!(matches!(error, ImageError::IndexCount(_)), "{error}");

        let wanted = "linux/arm64".parse().unwrap();
        let wider = index((0..50 * MAX_INDEXES).map(|n| nested(n, "")).collect::<Vec<_>>());
        let search = Search::new(&wanted, &wider);
        assert!(search.pending.len() <= MAX_INDEXES + 1, "{} are kept", search.pending.len());
    }
}
