//! The seeds of testdata/corpus: small inputs, right ones and wrong ones, from which fuzzing sets
//! out.

use serde_json::json;
use testkit::image::{Image, Index, Platform};
use testkit::layers::{
    Compression, Entry, GNU, LayerBuilder, PAX_HEADER, V7, gzip, pax_data, zstd,
};
use testkit::media;

/// Target, file name, content.
pub(crate) type Seed = (&'static str, String, Vec<u8>);

/// All of them.
pub(crate) fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |target, named: Vec<(&str, Vec<u8>)>| {
        seeds.extend(named.into_iter().map(|(name, data)| (target, name.to_owned(), data)));
    };
    add("tar", tars());
    add("tar", sparse_tars());
    add("layer", layers());
    add("pax", pax());
    add("sparse", sparse());
    add("names", names());
    add("decompress", blobs());
    add("document", documents());
    add("config", configs());
    add("reference", references());
    add("challenge", challenges());
    seeds
}

fn tar() -> LayerBuilder {
    LayerBuilder::new()
}

fn tars() -> Vec<(&'static str, Vec<u8>)> {
    let long = format!("deep/{}", "x".repeat(200));
    let v7 = |mut entry: Entry| {
        entry.magic = V7;
        tar().entry(entry).tar()
    };
    let mut base256 = Entry::new(b'0', "f");
    (base256.uid, base256.mtime, base256.base256) = (5_000_000_000, -5, true);
    let kinds = tar()
        .dir("d", 0o1777)
        .file("d/f", "data")
        .owner(70_000, 3_000_000)
        .mtime(-5, 500_000_000)
        .xattr("user.k", b"v\0w")
        .hardlink("h", "d/f")
        .symlink("l", "d/f")
        .char_device("c", 1, 3)
        .block_device("b", 8, 0)
        .fifo("p");
    vec![
        ("empty", Vec::new()),
        ("end.tar", tar().tar()),
        ("kinds.tar", kinds.tar()),
        ("long-pax.tar", tar().file(&long, "").hardlink("h", &long).tar()),
        ("long-gnu.tar", tar().file(&long, "").gnu_long_names().tar()),
        ("v7-directory.tar", v7(Entry::new(0, "d/"))),
        ("base256.tar", tar().entry(base256).tar()),
        (
            "global.tar",
            tar().global_pax(&[("mtime", "5"), ("SCHILY.xattr.user.g", "v")]).file("f", "").tar(),
        ),
        // The size of the extended header counts: who goes by the header's sees another entry.
        ("two-sizes.tar", tar().file("f", [b'x'; 512]).header_size(0).pax("size", "512").tar()),
        ("no-end.tar", tar().file("f", "data").no_end().tar()),
        ("trailing.tar", tar().file("f", "data").trailing(&[1; 700]).tar()),
        ("unknown-type.tar", tar().typed(b'Z', "z").tar()),
        ("truncated.tar", tar().file("f", [b'x'; 600]).tar()[..1100].to_vec()),
        ("not-a-tar", b"just some text".repeat(50)),
    ]
}

fn sparse_tars() -> Vec<(&'static str, Vec<u8>)> {
    let mut text_map = b"2\n0\n3\n100\n2\n".to_vec();
    text_map.resize(512, 0);
    text_map.extend(b"abcde");
    let pairs = [("offset", "0"), ("numbytes", "3"), ("offset", "100"), ("numbytes", "2")];
    let pairs = pairs.map(|(key, value)| (format!("GNU.sparse.{key}").into_bytes(), value.into()));
    let mut records = vec![
        (b"GNU.sparse.size".to_vec(), b"200".to_vec()),
        (b"GNU.sparse.numblocks".to_vec(), b"2".to_vec()),
    ];
    records.extend(pairs);
    let mut header_0_0 = Entry::new(PAX_HEADER, "x");
    header_0_0.data = pax_data(&records);
    let form_0_1 = tar()
        .file("s", "abcde")
        .pax("GNU.sparse.size", "200")
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.name", "real")
        .pax("GNU.sparse.map", "0,3,100,2");
    let form_1_0 = tar()
        .file("s", text_map)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "200");
    let gnu = [gnu_sparse_header(true), gnu_extension(&[(512, 2)]).to_vec(), b"abcde".to_vec()];
    vec![
        ("sparse-0.0.tar", tar().entry(header_0_0).file("s", "abcde").tar()),
        ("sparse-0.1.tar", form_0_1.tar()),
        ("sparse-1.0.tar", form_1_0.tar()),
        ("sparse-gnu.tar", gnu.concat()),
    ]
}

/// The header of a sparse file of 1000 bytes with three bytes at its start.
fn gnu_sparse_header(extended: bool) -> Vec<u8> {
    let mut entry = Entry::new(b'S', "s");
    (entry.magic, entry.size) = (GNU, Some(5));
    let mut block = tar().entry(entry).no_end().tar();
    block[386..410].copy_from_slice(b"00000000000\x0000000000003\0");
    block[482] = u8::from(extended);
    block[483..495].copy_from_slice(b"00000001750\0");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn gnu_extension(extents: &[(u64, u64)]) -> [u8; 512] {
    let mut block = [0; 512];
    for ((offset, length), field) in extents.iter().zip(block.chunks_exact_mut(24)) {
        field.copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
    block
}

fn layers() -> Vec<(&'static str, Vec<u8>)> {
    // What every input of this target is laid over.
    let lower = tar()
        .dir("d", 0o755)
        .file("d/a", "1")
        .file("d/s/x", "1")
        .file("f", "1")
        .symlink("l", "d")
        .symlink("up", "../beside")
        .symlink("abs", "/etc");
    let links = tar()
        .symlink("own", "d")
        .file("own/new", "2")
        .hardlink("own/h", "f")
        .hardlink("g", "up")
        .symlink("own", "/d/s")
        .file("own/y", "2");
    let hostile = tar()
        .file("up/x", "")
        .file("abs/passwd", "")
        .hardlink("p", "/etc/passwd")
        .symlink("out", "../../..")
        .file("out/beside", "changed")
        .dir("l", 0o777);
    let aufs = tar().file(".wh..wh.plnk/1.2", "1").hardlink("one", ".wh..wh.plnk/1.2");
    vec![
        ("lower.tar", lower.tar()),
        ("whiteouts.tar", tar().whiteout("f").file("f", "2").file("d/n", "2").whiteout("d").tar()),
        ("opaque.tar", tar().file("d/s/n", "2").opaque("d").dir("d", 0o700).opaque("").tar()),
        ("types.tar", tar().file("d", "2").dir("f", 0o500).fifo("l").dir("./", 0o711).tar()),
        ("links.tar", links.tar()),
        ("hostile.tar", hostile.tar()),
        ("escapes.tar", tar().file("../beside", "changed").tar()),
        ("aufs.tar", aufs.tar()),
        ("loop.tar", tar().symlink("a", "b").symlink("b", "a").file("a/x", "").tar()),
    ]
}

fn pax() -> Vec<(&'static str, Vec<u8>)> {
    let data = |records: &[(&str, &str)]| {
        let own = |text: &str| text.as_bytes().to_vec();
        pax_data(&records.iter().map(|(key, value)| (own(key), own(value))).collect::<Vec<_>>())
    };
    vec![
        ("names", data(&[("path", "a/b"), ("linkpath", "c"), ("path", "")])),
        ("numbers", data(&[("size", "5"), ("uid", "4294967294"), ("gid", "-1")])),
        ("times", data(&[("mtime", "-1.25"), ("atime", "1700000000.000000001")])),
        ("xattrs", data(&[("SCHILY.xattr.user.k", "a\n=b"), ("SCHILY.xattr.", "")])),
        (
            "map",
            data(&[
                ("GNU.sparse.numblocks", "2"),
                ("GNU.sparse.map", "0,3,100,2"),
                ("GNU.sparse.size", "200"),
            ]),
        ),
        ("pairs", data(&[("GNU.sparse.offset", "0"), ("GNU.sparse.numbytes", "3")])),
        (
            "form",
            data(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "n")]),
        ),
        ("wrong-length", b"99 a=b\n".to_vec()),
    ]
}

fn sparse() -> Vec<(&'static str, Vec<u8>)> {
    let gnu = [vec![b'g'], gnu_sparse_header(true), gnu_extension(&[(512, 2), (600, 1)]).to_vec()];
    vec![
        ("text", b"t2\n0\n3\n100\n2\n".to_vec()),
        ("text-none", b"t0\n".to_vec()),
        ("text-many", b"t262144\n0\n1\n".to_vec()),
        ("text-overflow", b"t2\n9223372036854775807\n9223372036854775807\n".to_vec()),
        ("gnu", [vec![b'g'], gnu_sparse_header(false)].concat()),
        ("gnu-extended", gnu.concat()),
    ]
}

fn names() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain", b"./\na/\na//b\n/a/./c\na/../d\n..\n../x\n\xff\n".to_vec()),
        (
            "whiteouts",
            b".wh.a\na/.wh.b\n.wh.\n.wh..\n.wh...\n.wh..wh..opq\na/.wh..wh..opq\n".to_vec(),
        ),
        ("aufs", b".wh..wh.aufs\n.wh..wh.plnk/1\n.wh..wh.plnk/.wh.x\n.wh..wh.orph/x\n".to_vec()),
        ("links", b"d/\nl\td\nl/x\nm\t../../l/./x\nm/y\nloop\tloop\nloop/x\nl\nl/z\n".to_vec()),
        ("long", [&b"l\t"[..], &b"d/".repeat(60), b"\nl/", &b"e/".repeat(60), b"x"].concat()),
    ]
}

fn blobs() -> Vec<(&'static str, Vec<u8>)> {
    let text = tar().file("f", "some data").tar();
    let layer = |compression| tar().file("f", "some data").build(compression).bytes.to_vec();
    let frame = zstd(&text);
    vec![
        ("plain.tar", text.clone()),
        ("gzip", layer(Compression::Gzip)),
        ("gzip-members", layer(Compression::GzipMembers)),
        ("gzip-zeros", gzip(&[0; 1 << 18])),
        ("zstd", layer(Compression::Zstd)),
        ("zstd-frames", layer(Compression::ZstdFrames)),
        ("zstd-zeros", zstd(&[0; 1 << 18])),
        ("zstd-cut", frame[..frame.len() / 2].to_vec()),
        ("gzip-and-more", [gzip(&text), b"garbage".to_vec()].concat()),
        ("bzip2", b"BZh91AY&SY".to_vec()),
        ("xz", b"\xfd7zXZ\0\0\x04".to_vec()),
    ]
}

fn documents() -> Vec<(&'static str, Vec<u8>)> {
    let with_type = |media_type: &str, body: &[u8]| [media_type.as_bytes(), b"\n", body].concat();
    let layer = tar().file("f", "1").build(Compression::None);
    let image = |docker: bool| {
        let image = if docker { Image::docker() } else { Image::new() };
        image.platform(Platform::linux("amd64")).layer(layer.clone()).build()
    };
    let arm = Image::new().platform(Platform::linux("arm/v7")).build();
    let (oci, docker) = (image(false), image(true));
    let index = Index::new().image(oci.clone()).image(arm).build();
    let list = Index::docker().image(docker.clone()).build();
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []}).to_string();
    vec![
        ("oci", with_type(media::OCI_MANIFEST, &oci.manifest.bytes)),
        ("docker", with_type(media::DOCKER_MANIFEST, &docker.manifest.bytes)),
        ("index", with_type(media::OCI_INDEX, &index.bytes)),
        ("list", with_type(media::DOCKER_LIST, &list.bytes)),
        ("untyped", with_type("application/json; charset=utf-8", &list.bytes)),
        ("null-layers", with_type("", br#"{"schemaVersion":2,"layers":null}"#)),
        ("null-manifests", with_type(media::OCI_INDEX, br#"{"schemaVersion":2,"manifests":null}"#)),
        ("schema1", with_type("", br#"{"schemaVersion":1,"fsLayers":[]}"#)),
        ("both", with_type("", both.as_bytes())),
        ("deep", with_type("", &b"[".repeat(500))),
    ]
}

fn configs() -> Vec<(&'static str, Vec<u8>)> {
    let layer = tar().file("f", "1").build(Compression::None);
    let image = Image::new().platform(Platform::linux("arm64/v8"));
    let image = image.layer(layer).env("A=b").cmd(&["sh"]).user("1:2").expose("80/tcp").build();
    vec![
        ("full", image.config.bytes.to_vec()),
        ("least", br#"{"rootfs":{"diff_ids":null}}"#.to_vec()),
        ("no-rootfs", b"{}".to_vec()),
        ("bad-diff-id", br#"{"rootfs":{"diff_ids":["../x"]}}"#.to_vec()),
    ]
}

fn references() -> Vec<(&'static str, Vec<u8>)> {
    let digest = format!("quay.io/a/b:c@sha256:{}", "0f".repeat(32));
    let texts = [
        ("short", "centos"),
        ("tagged", "centos:stream9"),
        ("digest", &digest),
        ("port", "localhost:5000/a__b/c-d.e:v1"),
        ("ipv6", "[::1]:5000/a"),
        ("scheme", "https://quay.io/a"),
        ("upper", "Centos"),
        ("hub", "index.docker.io/library/centos"),
        ("bad-digest", "a@sha256:xyz"),
    ];
    texts.map(|(name, text)| (name, text.into())).to_vec()
}

fn challenges() -> Vec<(&'static str, Vec<u8>)> {
    let texts = [
        (
            "bearer",
            r#"Bearer realm="https://auth.test/token",service="r",scope="repository:a:pull,push""#,
        ),
        ("basic", r#"Basic realm="r", charset="UTF-8""#),
        ("both", "Negotiate, Bearer realm=\"https://x/t\", Basic\nbasic"),
        ("escapes", r#"Bearer realm="a\"b\\",error=x"#),
        ("open", r#"Bearer service="x"#),
        ("rubbish", ",,= = =\""),
    ];
    texts.map(|(name, text)| (name, text.into())).to_vec()
}
