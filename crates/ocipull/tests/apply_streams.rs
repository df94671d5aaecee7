//! Streams: compressions, ends, sparse files, and what is not to be believed.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;

use std::os::unix::fs::MetadataExt;

use apply_support::{Scratch, listed, listing, plain, refused};
use testkit::layers::{Compression, Entry, Layer, LayerBuilder};

fn layer() -> LayerBuilder {
    LayerBuilder::new()
}

fn unpacked(layer: Layer) -> Result<Vec<String>, String> {
    let scratch = Scratch::new();
    let result = scratch.unpack(&[layer]);
    match result {
        Ok(_) => Ok(listing(&scratch.dest())),
        Err(error) => {
            assert!(!scratch.dest().exists(), "a failed unpacking left a destination");
            assert_eq!(scratch.beside(), [""; 0], "a failed unpacking left something");
            Err(ctsys::report::chain(&error))
        }
    }
}

#[test]
fn every_compression_gives_the_same_tree_whatever_the_media_type_says() {
    let builder = layer().file("a", "x".repeat(100_000)).file("b", "2");
    let want = listed(std::slice::from_ref(&builder));
    for compression in [
        Compression::None,
        Compression::Gzip,
        Compression::GzipMembers,
        Compression::Zstd,
        Compression::ZstdFrames,
    ] {
        let built = builder.build(compression);
        assert_eq!(unpacked(built.clone()).unwrap(), want, "{compression:?}");
        for media_type in [testkit::media::OCI_LAYER, testkit::media::DOCKER_LAYER_GZIP, "x/y"] {
            let labelled = Layer { media_type: media_type.into(), ..built.clone() };
            assert_eq!(unpacked(labelled).unwrap(), want, "{compression:?} as {media_type}");
        }
    }
}

#[test]
fn a_blob_of_no_bytes_is_an_empty_layer() {
    let nothing = testkit::digest(b"");
    assert_eq!(unpacked(Layer::from_parts(&b""[..], &nothing, "")).unwrap(), [""; 0]);
    let message = unpacked(Layer::from_parts(&b""[..], &testkit::digest(b"x"), "")).unwrap_err();
    assert!(message.contains("diff_id"), "{message}");
}

#[test]
fn what_stands_behind_the_end_is_part_of_the_diff_id_and_nothing_else() {
    let tail = layer().file("hidden", "").tar();
    for builder in [
        layer().file("a", "1").trailing(&[0; 20_000]),
        layer().file("a", "1").trailing(b"not zeros, not blocks"),
        layer().file("a", "1").trailing(&tail),
        layer().file("a", "1").no_end(),
    ] {
        assert_eq!(listed(&[builder]), ["f a=1"]);
    }
    let good = plain(&layer().file("a", "1").trailing(&[0; 4096]));
    let cut = Layer { bytes: good.bytes.slice(..good.bytes.len() - 1), ..good };
    let message = unpacked(cut).unwrap_err();
    assert!(message.contains("got diff_id sha256:") && message.contains(", want "), "{message}");
}

#[test]
fn a_stream_that_ends_early_is_an_error() {
    let builder = layer().file("a", "x".repeat(3000)).file("b", "y".repeat(3000));
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let whole = builder.build(compression);
        for length in [10, whole.bytes.len() / 2, whole.bytes.len() - 1] {
            let cut = Layer { bytes: whole.bytes.slice(..length), ..whole.clone() };
            let message = unpacked(cut).unwrap_err();
            assert!(message.contains(&whole.digest), "{compression:?} {length}: {message}");
        }
    }
}

#[test]
fn garbage_instead_of_a_header_is_refused() {
    let message = refused(&[layer().file("a", "1").raw(&[7; 512])]);
    assert!(message.contains("checksum"), "{message}");
    let zero_then_more = layer().file("a", "1").raw(&[0; 512]).file("b", "2");
    assert!(refused(&[zero_then_more]).contains("follows a block of zeros"));
    let bad = Entry { spoil_checksum: true, ..Entry::new(b'0', "x") };
    assert!(refused(&[layer().entry(bad)]).contains("checksum"));
}

#[test]
fn extended_headers_and_long_names_are_bounded() {
    let long = "v".repeat((1 << 20) + 1);
    for builder in [
        layer().file("a", "").pax("comment", &long),
        layer().global_pax(&[("comment", &long)]),
        layer().file(&long, "").gnu_long_names(),
        layer().symlink("a", &long).gnu_long_names(),
    ] {
        let message = refused(&[builder]);
        assert!(message.contains("is too large: got 1048"), "{message}");
    }
    let fits = "v".repeat((1 << 20) - 100);
    assert_eq!(listed(&[layer().file("a", "").pax("comment", &fits)]), ["f a="]);
}

#[test]
fn global_headers_are_bounded_together() {
    let value = "v".repeat(600 << 10);
    let header = |layer: LayerBuilder, name| layer.global_pax(&[(name, &value)]);
    let message = refused(&[header(header(layer(), "SCHILY.xattr.user.a"), "SCHILY.xattr.user.b")]);
    assert!(message.contains("global extended headers say is too large"), "{message}");
    // One that says the same again takes nothing more.
    let again = header(header(layer(), "SCHILY.xattr.user.a"), "SCHILY.xattr.user.a");
    assert_eq!(listed(&[again]), [""; 0]);
}

#[test]
fn one_size_counts_where_two_are_given() {
    // An extended header's size counts over the header's: the data hides a whole entry
    // (CVE-2025-62518), which is seen by a reader that goes by the header's.
    let inner = layer().file("hidden", "").no_end().tar();
    let with_size = Entry {
        data: inner.clone(),
        size: Some(0),
        pax: vec![(b"size".to_vec(), inner.len().to_string().into_bytes())],
        ..Entry::new(b'0', "outer")
    };
    let scratch = Scratch::new();
    scratch.unpack(&[plain(&layer().entry(with_size).file("z", ""))]).unwrap();
    assert_eq!(std::fs::read(scratch.dest().join("outer")).unwrap(), inner);
    assert!(!scratch.dest().join("hidden").exists());
    // Entries without data have none, whatever their size says.
    for typeflag in [b'1', b'2', b'5', b'6'] {
        let sized = Entry { size: Some(512), link: b"a".to_vec(), ..Entry::new(typeflag, "sized") };
        let lines = listed(&[layer().file("a", "1").entry(sized).file("z", "2")]);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[2], "f z=2");
    }
}

/// An old GNU sparse file: one extent in the header, more in extension blocks.
fn old_gnu(extents: &[(u64, &str)], size: u64) -> Vec<u8> {
    let data: String = extents.iter().map(|(_, text)| *text).collect();
    // Base-256 where octal does not fit.
    let number = |n: u64| match n >> 33 {
        0 => format!("{n:011o}\0").into_bytes(),
        _ => [&[0x80, 0, 0, 0][..], &n.to_be_bytes()].concat(),
    };
    let pair = |(offset, text): &(u64, &str)| [number(*offset), number(text.len() as u64)].concat();
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_uid(0);
    header.set_gid(0);
    let bytes = header.as_mut_bytes();
    for (at, extent) in extents.iter().take(4).enumerate() {
        bytes[386 + at * 24..][..24].copy_from_slice(&pair(extent));
    }
    bytes[482] = u8::from(extents.len() > 4);
    bytes[483..495].copy_from_slice(&number(size));
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    let rest: Vec<_> = extents.iter().skip(4).collect();
    for (index, chunk) in rest.chunks(21).enumerate() {
        let mut block = [0; 512];
        for (at, extent) in chunk.iter().enumerate() {
            block[at * 24..][..24].copy_from_slice(&pair(extent));
        }
        block[504] = u8::from(rest.len() > (index + 1) * 21);
        out.extend(block);
    }
    out.extend(data.as_bytes());
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn sparse_forms(extents: &[(u64, &str)], size: u64) -> Vec<(&'static str, LayerBuilder)> {
    let data: String = extents.iter().map(|(_, text)| *text).collect();
    let real = size.to_string();
    let count = extents.len().to_string();
    let numbers = || extents.iter().flat_map(|(at, text)| [*at, text.len() as u64]);
    let mut zero = layer().file("sparse", &data).pax("GNU.sparse.size", &real);
    zero = zero.pax("GNU.sparse.numblocks", &count);
    for (offset, text) in extents {
        zero = zero.pax("GNU.sparse.offset", offset.to_string());
        zero = zero.pax("GNU.sparse.numbytes", text.len().to_string());
    }
    let list: Vec<String> = numbers().map(|n| n.to_string()).collect();
    let one = layer()
        .file("GNUSparseFile.1/sparse", &data)
        .pax("GNU.sparse.size", &real)
        .pax("GNU.sparse.numblocks", &count)
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.map", list.join(","));
    let mut map = format!("{count}\n{}\n", list.join("\n")).into_bytes();
    map.resize(map.len().next_multiple_of(512), 0);
    map.extend(data.as_bytes());
    let text = layer()
        .file("GNUSparseFile.1/sparse", &map)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.realsize", &real);
    let old = layer().raw(&old_gnu(extents, size));
    vec![("0.0", zero), ("0.1", one), ("1.0", text), ("old GNU", old)]
}

#[test]
fn all_four_sparse_forms_give_the_same_file() {
    let many: Vec<(u64, &str)> = (0..60).map(|n| (n * 10_000, "abc")).collect();
    let cases: [(&[(u64, &str)], u64); 3] =
        [(&[(4096, "hello"), (1 << 20, "end")], 2 << 20), (&many, 1 << 20), (&[(0, "x")], 5)];
    for (extents, size) in cases {
        let mut want = vec![0; usize::try_from(size).unwrap()];
        for (offset, text) in extents {
            want[usize::try_from(*offset).unwrap()..][..text.len()]
                .copy_from_slice(text.as_bytes());
        }
        for (form, builder) in sparse_forms(extents, size) {
            let scratch = Scratch::new();
            let result = scratch.unpack(&[plain(&builder.file("after", "1"))]);
            result.unwrap_or_else(|e| panic!("{form}: {}", ctsys::report::chain(&e)));
            let file = scratch.dest().join("sparse");
            assert!(std::fs::read(&file).unwrap() == want, "{form}: other content");
            assert!(scratch.dest().join("after").exists(), "{form}");
            if size > 1 << 20 {
                let blocks = std::fs::metadata(&file).unwrap().blocks();
                assert!(blocks * 512 < size / 4, "{form}: {blocks} blocks, the holes are filled");
            }
        }
    }
}

#[test]
fn sparse_maps_that_lie_or_are_huge_are_refused() {
    for (extents, size) in [
        (&[(10, "abc"), (11, "abc")][..], 100),
        (&[(98, "abc")], 100),
        (&[(10, "abc"), (0, "abc")], 100),
        (&[(0, "abc")], 1 << 62),
    ] {
        for (form, builder) in sparse_forms(extents, size) {
            let message = refused(&[builder]);
            let told = message.contains("sparse") || message.contains("real size");
            assert!(told, "{form}: {message}");
        }
    }
    let missing = layer()
        .file("sparse", "ab")
        .pax("GNU.sparse.size", "100")
        .pax("GNU.sparse.numblocks", "1")
        .pax("GNU.sparse.map", "0,3");
    assert!(refused(&[missing]).contains("as long as the data"));
    let endless = layer()
        .file("sparse", "9\n".repeat(1 << 20))
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0");
    assert!(refused(&[endless]).contains("sparse map"));
}

#[test]
fn a_zstd_window_above_the_limit_is_refused() {
    let tar = layer().file("a", "1").tar();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    std::io::Write::write_all(&mut encoder, &tar).unwrap();
    let blob = encoder.finish().unwrap();
    let message = unpacked(Layer::from_parts(blob, &testkit::digest(&tar), "")).unwrap_err();
    assert!(message.contains("window") || message.contains("memory"), "{message}");
}

#[test]
fn memory_stays_bounded_while_a_large_layer_is_unpacked() {
    // 600 MB that were never in memory: zeros, written as a gzip stream of many members.
    const MEMBERS: u64 = 150;
    const MEMBER_BYTES: usize = 4 << 20;
    let size = MEMBERS * MEMBER_BYTES as u64;
    let header = Entry { size: Some(size), ..Entry::new(b'0', "large") };
    let mut head = Vec::new();
    header.write(&mut head);
    let zeros = vec![0; MEMBER_BYTES];
    let mut blob = testkit::layers::gzip(&head);
    let member = testkit::layers::gzip(&zeros);
    let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
    sha2::Digest::update(&mut hasher, &head);
    for _ in 0..MEMBERS {
        blob.extend(&member);
        sha2::Digest::update(&mut hasher, &zeros);
    }
    let digest: String =
        sha2::Digest::finalize(hasher).iter().map(|b| format!("{b:02x}")).collect();
    drop(zeros);
    let before = peak_kib();
    let scratch = Scratch::new();
    let layer = Layer::from_parts(blob, &format!("sha256:{digest}"), "");
    scratch.unpack(&[layer]).unwrap();
    assert_eq!(std::fs::metadata(scratch.dest().join("large")).unwrap().len(), size);
    let grown = peak_kib() - before;
    assert!(grown < 100 << 10, "peak memory grew by {grown} KiB");
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
