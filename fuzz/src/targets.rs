//! One function a target.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub)]

use std::io::{BufRead, BufReader, Read};

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedPlatform};
use oci_spec::image::Digest;
use ocipull::apply::name::{self, Name};
use ocipull::apply::shape::{LayerShape, Made};
use ocipull::apply::tar::header::{BLOCK_BYTES, Block};
use ocipull::apply::tar::pax::{Pax, PaxSparse};
use ocipull::apply::tar::sparse::{self, Extent, OldGnuMap, PaxForm, TextMap};
use ocipull::apply::tar::{Entry, TarReader};
use ocipull::apply::{ApplyOptions, LayerSpec, Staging, limits};
use ocipull::image::{Config, Document, MAX_INDEXES, Search, inline_data};
use ocipull::location::ImageLocation;
use ocipull::platform::Platform;
use ocipull::reference::ImageReference;
use sha2::{Digest as _, Sha256};

/// The library keeps it to itself, and it needs nothing of the library.
#[path = "../../crates/ocipull/src/registry/challenge.rs"]
mod challenge_source;

/// A whole stream to entries and their data: the same however the stream's bytes come in.
pub fn tar(data: &[u8]) {
    let whole = entries(data);
    let torn = entries(BufReader::with_capacity(7, data));
    assert_eq!(whole, torn, "in pieces the stream is another one");
    let got: usize = whole.0.iter().map(|(_, data)| data.len()).sum();
    assert!(got <= data.len(), "more data than the stream has");
    for (entry, data) in &whole.0 {
        match &entry.extents {
            Some(extents) => assert_extents(extents, entry.size, data.len() as u64),
            None => assert_eq!(data.len() as u64, entry.size, "{entry:?}"),
        }
        let times = [Some(entry.mtime), entry.atime];
        assert!(times.iter().flatten().all(|t| t.nanoseconds < 1_000_000_000), "{entry:?}");
        assert!(entry.mode <= 0o7777, "{entry:?}");
    }
}

/// The entries that are whole, and the error that ended them.
fn entries(input: impl BufRead) -> (Vec<(Entry, Vec<u8>)>, Option<String>) {
    let mut reader = TarReader::new(input);
    let mut entries = Vec::new();
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return (entries, None),
            Err(error) => return (entries, Some(error.to_string())),
        };
        let mut data = Vec::new();
        loop {
            match reader.data() {
                Ok([]) => break,
                Ok(chunk) => {
                    let length = chunk.len();
                    data.extend_from_slice(chunk);
                    reader.consume(length);
                }
                Err(error) => return (entries, Some(error.to_string())),
            }
        }
        entries.push((entry, data));
    }
}

/// Extended headers: the last record wins, so the same ones again change nothing.
pub fn pax(data: &[u8]) {
    let mut once = Pax::default();
    if once.extend(data).is_err() {
        return;
    }
    let mut twice = once.clone();
    twice.extend(data).unwrap();
    assert_eq!(once, twice);
    let names = [&once.path, &once.link, &once.sparse.name];
    assert!(!names.into_iter().flatten().any(|name| name.contains(&0)), "{names:?}");
    let global = once.clone().keep_global();
    assert_eq!((global.path, global.size, global.sparse), (None, None, PaxSparse::default()));
    if let Ok(PaxForm::InHeader(extents)) = sparse::pax_form(&once.sparse) {
        checked(&extents, once.sparse.real_size.unwrap_or(0));
    }
}

/// The two forms of sparse maps that are not PAX records: text when the first byte says so, else
/// GNU's header and extension blocks.
pub fn sparse(data: &[u8]) {
    let Some((form, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let blocks: &[Block] = bytes.as_chunks().0;
    if *form == b't' {
        let mut map = TextMap::default();
        for block in blocks {
            match map.block(block) {
                Ok(None) => {}
                Ok(Some(extents)) => return checked(&extents, 1 << 30),
                Err(_) => return,
            }
        }
        return;
    }
    let Some((header, extensions)) = blocks.split_first() else { return };
    let mut map = OldGnuMap::default();
    let Ok(mut more) = map.header(header) else { return };
    for block in extensions {
        if !more {
            break;
        }
        let Ok(next) = map.extension(block) else { return };
        more = next;
    }
    if let Ok(size) = OldGnuMap::real_size(header) {
        checked(&map.extents, size);
    }
}

fn checked(extents: &[Extent], size: u64) {
    assert!(extents.len() <= limits::MAX_SPARSE_EXTENTS);
    let data = extents.iter().fold(0_u64, |sum, e| sum.saturating_add(e.length));
    if sparse::check(extents, size, data).is_ok() {
        assert_extents(extents, size, data);
    }
}

fn assert_extents(extents: &[Extent], size: u64, data: u64) {
    let mut end = 0;
    for extent in extents {
        assert!(extent.offset >= end, "{extents:?}");
        end = extent.offset.checked_add(extent.length).unwrap();
    }
    assert!(end <= size && size <= limits::MAX_SPARSE_FILE_BYTES, "{extents:?} in {size}");
    assert_eq!(extents.iter().map(|e| e.length).sum::<u64>(), data, "{extents:?}");
}

/// Names and whiteouts, and the shape that they make. A line is a name: of a directory when it ends
/// with a slash, of a link when a tab and its target follow, else of a file.
pub fn names(data: &[u8]) {
    let mut shape = LayerShape::default();
    // Links of links are slow by their nature.
    for line in data.split(|&b| b == b'\n').take(200) {
        let mut parts = line.splitn(2, |&b| b == b'\t');
        let raw = parts.next().unwrap_or_default();
        let made = match parts.next() {
            // No tar header has a link with one; see `pax`.
            Some(target) if target.contains(&0) => continue,
            Some(target) => Made::Symlink(target.into()),
            None if raw.ends_with(b"/") => Made::Dir { explicit: true },
            None => Made::Other,
        };
        match Name::parse(raw) {
            Err(_) | Ok(Name::Skipped) => {}
            Ok(Name::Path(path)) => make(&mut shape, &path, made),
            Ok(Name::Opaque(path)) => assert_clean(&path),
            Ok(Name::Whiteout(path)) => {
                assert_clean(&path);
                assert!(!path.is_empty(), "a whiteout of the root");
            }
        }
    }
}

fn make(shape: &mut LayerShape, path: &[u8], made: Made) {
    assert_clean(path);
    let (parent, leaf) = name::split(path);
    let Ok(parent) = shape.resolve_dir(parent) else { return };
    assert_clean(&parent);
    for end in (1..=parent.len()).filter(|&end| end == parent.len() || parent[end] == b'/') {
        let on_the_way = shape.get(&parent[..end]);
        assert!(matches!(on_the_way, None | Some(Made::Dir { .. })), "through {on_the_way:?}");
    }
    if leaf.is_empty() || shape.imply_dirs(&parent).is_err() {
        return;
    }
    let path = name::join(&parent, leaf);
    let is_dir = matches!(made, Made::Dir { .. });
    let before = shape.insert(&path, made);
    if !is_dir && matches!(before, Ok(Some(Made::Dir { .. }))) {
        shape.forget_below(&path);
        assert_eq!(shape.get(&name::join(&path, leaf)), None);
    }
}

fn assert_clean(path: &[u8]) {
    let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
    let is_bad = !path.is_empty() && path.split(|&b| b == b'/').any(bad);
    assert!(!is_bad, "{}", path.escape_ascii());
    assert!(path.len() <= limits::MAX_PATH_BYTES, "{} bytes", path.len());
}

/// A blob to its stream: the same however the blob's bytes come in.
pub fn decompress(data: &[u8]) {
    let whole = decompressed(&mut &data[..]);
    if data.len() <= 4096 {
        assert_eq!(whole, decompressed(&mut OneByte(data)), "in pieces the blob is another one");
    }
}

/// `None` for an error; of long streams the start.
fn decompressed(blob: &mut (dyn Read + Send)) -> Option<Vec<u8>> {
    let stream =
        ocipull::decompress::open("application/vnd.oci.image.layer.v1.tar+gzip", blob, 200);
    let mut output = Vec::new();
    stream.ok()?.take(1 << 20).read_to_end(&mut output).ok()?;
    Some(output)
}

struct OneByte<'d>(&'d [u8]);

impl Read for OneByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

/// Manifests and indexes: the first line is the content type, the rest the body.
pub fn document(data: &[u8]) {
    let mut parts = data.splitn(2, |&b| b == b'\n');
    let content_type = String::from_utf8_lossy(parts.next().unwrap_or_default());
    match Document::parse(parts.next().unwrap_or_default(), &content_type) {
        Err(error) => assert_single_line(&ctsys::report::chain(&error)),
        Ok(Document::Manifest(manifest)) => {
            for layer in &manifest.layers {
                assert!(layer.media_type().to_string().contains(".tar"), "{layer:?}");
            }
        }
        Ok(Document::Index(index)) => {
            for platform in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
                let platform: Platform = platform.parse().unwrap();
                // Every index inside of it is it again.
                let mut search = Search::new(&platform, &index);
                let mut steps = 0;
                let found = loop {
                    match search.next_index() {
                        Ok(None) => break search.finish(),
                        Ok(Some(_)) => search.look(&index),
                        Err(error) => break Err(error),
                    }
                    steps += 1;
                    assert!(steps <= MAX_INDEXES, "the search does not end");
                };
                match found {
                    Ok(choice) => {
                        assert!(choice.platform.is_none_or(|p| platform.suits(&p).is_some()));
                        // What it brings along is what its digest says, or an error.
                        if let Err(error) = inline_data(&choice.descriptor) {
                            assert_single_line(&ctsys::report::chain(&error));
                        }
                    }
                    Err(error) => assert_single_line(&ctsys::report::chain(&error)),
                }
            }
        }
    }
}

/// Image configs.
pub fn config(data: &[u8]) {
    match Config::parse(data) {
        Err(error) => assert_single_line(&ctsys::report::chain(&error)),
        Ok(config) => {
            for id in &config.diff_ids {
                assert!(
                    id.digest()
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'='),
                    "{id}"
                );
            }
            let recorded = Platform::from_record(&config.platform.to_record());
            assert_eq!(recorded, config.platform, "a record changes the platform");
        }
    }
}

/// What a message shows on a terminal stays one line without control characters.
fn assert_single_line(message: &str) {
    let shown = ctsys::report::escape(message).to_string();
    assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
}

/// References: one written out is the same reference.
pub fn reference(data: &[u8]) {
    let typed = String::from_utf8_lossy(data);
    for word in ["", "oci:", "docker-archive:"] {
        if let Err(error) = format!("{word}{typed}").parse::<ImageLocation>() {
            assert_single_line(&error.to_string());
            assert!(!error.hint().is_empty());
        }
    }
    match typed.parse::<ImageReference>() {
        Err(error) => {
            assert_single_line(&error.to_string());
            assert!(!error.hint().is_empty());
        }
        Ok(reference) => {
            let written = reference.to_string();
            let again: ImageReference =
                written.parse().unwrap_or_else(|e| panic!("{typed:?} as {written:?}: {e}"));
            assert_eq!(written, again.to_string());
            assert_eq!(reference.selector(), again.selector());
            assert_eq!(reference.registry(), again.registry());
            assert_eq!(reference.repository(), again.repository());
        }
    }
}

/// `WWW-Authenticate` headers, a line each.
pub fn challenge(data: &[u8]) {
    use challenge_source::Challenge;
    let text = String::from_utf8_lossy(data);
    let challenges = challenge_source::parse(text.lines());
    let total: usize = challenges
        .iter()
        .map(|challenge| match challenge {
            Challenge::Basic => 5,
            Challenge::Bearer { realm, service, scope } => {
                let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
                6 + realm.len() + length(service) + length(scope)
            }
        })
        .sum();
    assert!(total <= text.len(), "more than the headers have: {challenges:?}");
}

/// A layer onto a lower one on disk: whatever it says, nothing beside the destination changes.
pub fn layer(data: &[u8]) {
    let scratch = tempfile::tempdir().unwrap();
    let beside = scratch.path().join("beside");
    std::fs::write(&beside, "untouched").unwrap();
    let dest = scratch.path().join("dest");
    let options = ApplyOptions::new(Ownership::Root, false);
    let mut staging = Staging::create(&dest, options).unwrap();
    apply(&mut staging, LOWER).unwrap();
    let applied = apply(&mut staging, data);
    let names = |count: usize| {
        let names = std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().file_name());
        let names: Vec<_> = names.collect();
        assert_eq!(names.len(), count, "{names:?}");
    };
    match applied {
        Err(_) => {
            drop(staging);
            names(1);
        }
        Ok(()) => {
            staging.commit(&record()).unwrap();
            names(3);
            ocipull::apply::remove(&dest).unwrap();
            names(1);
        }
    }
    assert_eq!(std::fs::read(&beside).unwrap(), b"untouched");
}

/// Of names that seeds use: a directory with a file and a link out of the root.
const LOWER: &[u8] = include_bytes!("../../testdata/corpus/layer/lower.tar");

fn apply(staging: &mut Staging, tar: &[u8]) -> Result<(), ocipull::apply::ApplyError> {
    let hash: String = Sha256::digest(tar).iter().map(|b| format!("{b:02x}")).collect();
    let digest: Digest = format!("sha256:{hash}").parse().unwrap();
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let spec = LayerSpec { media_type, diff_id: &digest, digest: &digest };
    staging.apply_layer(&spec, &mut &tar[..]).map(drop)
}

fn record() -> ImageRecord {
    ImageRecord {
        version: RECORD_VERSION,
        reference: "fuzz".into(),
        canonical_reference: "registry.test/fuzz:latest".into(),
        manifest_digest: String::new(),
        resolved_digest: String::new(),
        platform: RecordedPlatform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        },
        layers: Vec::new(),
        ownership: Ownership::Root,
        keep_dirlinks: false,
        config: Default::default(),
    }
}
