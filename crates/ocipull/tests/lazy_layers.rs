//! Layers that engines can read in pieces, byte for byte as their tools lay them out: to whoever reads
//! them from front to end they are ordinary gzip and zstd, and the tables of contents no part of the
//! tree that anybody else would not see too.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;

use apply_support::{Scratch, listing};
use testkit::layers::{Entry, Layer, LayerBuilder, gzip, zstd};
use testkit::media;

/// The name of estargz's table of contents, an entry of its own at the end.
const TOC: &str = "stargz.index.json";

/// The end of what is written for one entry: `tar` so far has no end marker.
fn pieces() -> Vec<Vec<u8>> {
    let part = |builder: LayerBuilder| builder.no_end().tar();
    vec![
        part(LayerBuilder::new().dir("etc", 0o755)),
        part(LayerBuilder::new().file("etc/name", "a name\n")),
        // The mark between what is fetched ahead and the rest, also an entry.
        part(LayerBuilder::new().file(".prefetch.landmark", [0xf])),
        part(LayerBuilder::new().file("large", "0123456789".repeat(10_000))),
        part(LayerBuilder::new().symlink("link", "etc/name")),
    ]
}

fn unpacked(layer: Layer) -> Vec<String> {
    let scratch = Scratch::new();
    if let Err(error) = scratch.unpack(&[layer]) {
        panic!("{}", ctsys::report::chain(&error));
    }
    listing(&scratch.dest())
}

fn has(lines: &[String], path: &str) -> bool {
    lines.iter().any(|line| line.starts_with(&format!("f {path}=")))
}

/// stargz-snapshotter's docs/estargz.md: a gzip member for each entry and each chunk of a large file,
/// one with the table of contents and the archive's end, and a footer: an empty member of 51 bytes whose
/// extra field says where the table begins.
#[test]
fn estargz_is_a_gzip_of_many_members() {
    let (mut blob, mut tar) = (Vec::new(), Vec::new());
    for piece in pieces() {
        // A chunk's border may lie anywhere in the data.
        for chunk in piece.chunks(40_000) {
            blob.extend(gzip(chunk));
        }
        tar.extend(piece);
    }
    let offset = blob.len();
    let toc = LayerBuilder::new().file(TOC, r#"{"version":1,"entries":[]}"#).tar();
    blob.extend(gzip(&toc));
    tar.extend(&toc);
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    footer.extend(format!("{offset:016x}STARGZ").bytes());
    // An empty stored block, then checksum and length of nothing.
    footer.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(footer.len(), 51);
    blob.extend(footer);
    let layer = Layer::from_parts(blob, &testkit::digest(&tar), media::OCI_LAYER_GZIP);
    let lines = unpacked(layer);
    // docker, containerd without its snapshotter and umoci show these two as well.
    assert!(has(&lines, TOC) && has(&lines, ".prefetch.landmark"), "{lines:?}");
    assert!(has(&lines, "etc/name") && has(&lines, "large"), "{lines:?}");
    assert!(lines.contains(&"l link>etc/name".to_owned()), "{lines:?}");
}

/// containers/storage, pkg/chunked/internal: a frame for each file's chunk, then skippable frames with
/// the manifest (itself a zstd frame inside), with tar-split's data, and with the footer, which ends in
/// a magic number of its own.
#[test]
fn zstd_chunked_is_zstd_with_skippable_frames() {
    let (mut blob, mut tar) = (Vec::new(), Vec::new());
    for piece in pieces() {
        // The header by itself, then the data.
        let (header, data) = piece.split_at(512);
        for part in [header, data].into_iter().filter(|part| !part.is_empty()) {
            blob.extend(zstd(part));
        }
        tar.extend(piece);
    }
    blob.extend(zstd(&[0; 1024]));
    tar.extend([0; 1024]);
    let skippable = |data: &[u8]| {
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        [&[0x50, 0x2a, 0x4d, 0x18][..], &length, data].concat()
    };
    let manifest = zstd(br#"{"version":1,"entries":[]}"#);
    let numbers = [blob.len() as u64 + 8, manifest.len() as u64, 26, 1, 0, 0, 0];
    blob.extend(skippable(&manifest));
    blob.extend(skippable(&zstd(b"tar-split")));
    let mut footer: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    footer.extend([0x47, 0x4e, 0x55, 0x6c, 0x49, 0x6e, 0x55, 0x78]);
    blob.extend(skippable(&footer));
    let layer = Layer::from_parts(blob, &testkit::digest(&tar), media::OCI_LAYER_ZSTD);
    let lines = unpacked(layer);
    assert!(has(&lines, "etc/name") && has(&lines, "large"), "{lines:?}");
    assert!(!has(&lines, TOC), "{lines:?}");
    assert_eq!(lines.len(), 5, "{lines:?}");
}

/// What an extended header or a long name says is for the entry right behind it. A global header is an
/// entry of its own for Go's reader, so it ends their power; a reader that saw it otherwise would see
/// another file.
#[test]
fn a_global_header_ends_what_was_said_for_the_next_entry() {
    let long = "n".repeat(120);
    let mut long_name = Entry::new(testkit::layers::GNU_LONG_NAME, "././@LongLink");
    long_name.magic = testkit::layers::GNU;
    long_name.data = [long.as_bytes(), b"\0"].concat();
    let mut extended = Entry::new(testkit::layers::PAX_HEADER, "PaxHeaders/x");
    extended.data = testkit::layers::pax_data(&[(b"path".to_vec(), b"pax".to_vec())]);
    for before in [long_name, extended] {
        let builder = LayerBuilder::new()
            .entry(before)
            .global_pax(&[("comment", "between")])
            .file("plain", "1");
        let tar = builder.tar();
        let layer = Layer::from_parts(tar.clone(), &testkit::digest(&tar), media::OCI_LAYER);
        assert_eq!(unpacked(layer), ["f plain=1"]);
    }
}
