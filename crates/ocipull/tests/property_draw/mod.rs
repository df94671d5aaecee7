//! Random stacks of layers: few names, so that most paths meet others, in their own layer and below.

use std::collections::{BTreeMap, BTreeSet};

use testkit::layers::{Compression, Entry, Layer, LayerBuilder};

use crate::property_model::{self, AUFS_LINKS, Kind, Meta, Model, Op};

/// SplitMix64 (Steele, Lea, Flood 2014): any seed gives a good sequence, also 0, 1, 2.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// Everything.
    All,
    /// Only what umoci does alike: see the test that compares with it.
    LikeUmoci,
    /// Only what podman does alike: see the test that compares with it.
    LikePodman,
}

/// One to five layers. Nearly all can be unpacked; a few end with an entry that is refused.
pub(crate) fn stack(random: &mut Random, kinds: Kinds) -> Vec<Vec<Op>> {
    let mut model = Model::default();
    let mut layers = Vec::new();
    for _ in 0..=random.below(5) {
        let mut layer = Vec::new();
        let mut names = BTreeSet::from([Vec::new()]);
        if kinds != Kinds::All {
            layer.push(Op::Dir(b"./".to_vec(), meta(random, kinds == Kinds::LikeUmoci)));
        }
        layer.iter().for_each(|op| model.apply(op).unwrap_or_else(|e| panic!("{e:?}: {op:?}")));
        for _ in 0..random.below(14) {
            let drawn = match kinds {
                Kinds::All => vec![op(random)],
                Kinds::LikeUmoci | Kinds::LikePodman => {
                    let op = op(random);
                    tame(random, &model, op)
                }
            };
            for mut op in drawn {
                if kinds == Kinds::LikePodman {
                    suit_podman(&model, &mut op);
                    if !names.insert(entry_name(&op)) || is_otherwise(&model, &op) {
                        continue;
                    }
                }
                let mut after = model.clone();
                let refused = after.apply(&op).is_err();
                if !refused {
                    model = after;
                    layer.push(op);
                } else if kinds == Kinds::All && random.one_in(40) {
                    layer.push(op);
                    layers.push(layer);
                    return layers;
                }
            }
        }
        model.end_layer();
        layers.push(layer);
    }
    layers
}

/// Takes times before 1970 away and directories' attributes, and gives hard links the metadata of
/// their target, as tar programs do.
fn suit_podman(model: &Model, op: &mut Op) {
    match op {
        Op::Dir(_, meta) => {
            meta.xattrs.clear();
            meta.mtime.0 = meta.mtime.0.max(0);
        }
        Op::Leaf(_, _, meta) => meta.mtime.0 = meta.mtime.0.max(0),
        Op::HardLink(_, target, meta) => {
            *meta = model.leaf_of_target(target).map(|(_, of_target)| of_target);
        }
        Op::Whiteout(_) | Op::Opaque(_) => {}
    }
}

/// Whether podman does otherwise: see the test that compares with it.
fn is_otherwise(model: &Model, op: &Op) -> bool {
    match op {
        Op::HardLink(path, target, _) => {
            let to_symlink = matches!(model.leaf_of_target(target), Some((Kind::Symlink(_), _)));
            to_symlink || !model.has_own_dir(&parent(path))
        }
        Op::Dir(path, _) | Op::Leaf(path, ..) => !model.has_own_dir(&parent(path)),
        Op::Opaque(dir) => !model.has_dir(dir),
        Op::Whiteout(path) => !model.has_dir(&parent(path)) || model.has_own(path),
    }
}

fn parent(path: &[u8]) -> Vec<u8> {
    let slash = path.iter().rposition(|&b| b == b'/');
    path[..slash.unwrap_or_default()].to_vec()
}

/// The cleaned name of the entry.
fn entry_name(op: &Op) -> Vec<u8> {
    let (dir, name) = match op {
        Op::Dir(path, _) | Op::Leaf(path, ..) | Op::HardLink(path, ..) => {
            (path.clone(), Vec::new())
        }
        Op::Whiteout(path) => (path.clone(), b".wh.".to_vec()),
        Op::Opaque(path) => (path.clone(), b"/.wh..wh..opq".to_vec()),
    };
    let clean = property_model::clean(&dir).map(|names| names.join(&b'/'));
    [clean.unwrap_or_default(), name].concat()
}

fn op(random: &mut Random) -> Op {
    match random.below(20) {
        0..=4 => Op::Dir(raw_path(random), meta(random, true)),
        5..=8 => {
            let data = random.next().to_string().repeat(random.below(3)).into_bytes();
            Op::Leaf(raw_path(random), Kind::File(data), meta(random, true))
        }
        9..=11 => Op::Leaf(raw_path(random), Kind::Symlink(target(random)), meta(random, false)),
        12..=13 => Op::HardLink(raw_path(random), raw_path(random), None),
        14 => Op::Leaf(raw_path(random), Kind::Fifo, meta(random, false)),
        15 => Op::Leaf(raw_path(random), Kind::Char(1, 3), meta(random, false)),
        16..=17 => Op::Whiteout(path(random)),
        18 if random.one_in(4) => aufs(random),
        _ => Op::Opaque(if random.one_in(8) { Vec::new() } else { path(random) }),
    }
}

/// A target of AUFS's links, or a link to one that may be there.
fn aufs(random: &mut Random) -> Op {
    let kept = [AUFS_LINKS, b"/1.2"].concat();
    if random.one_in(2) {
        return Op::HardLink(raw_path(random), kept, None);
    }
    Op::Leaf(kept, Kind::File(b"kept".to_vec()), meta(random, true))
}

fn name(random: &mut Random) -> Vec<u8> {
    match random.below(30) {
        0 => vec![b'n'; 130],
        1 => b"\xff \\".to_vec(),
        2 => b".wh".to_vec(),
        _ => random.pick(&[b"a", b"b", b"c", b"d"]).to_vec(),
    }
}

fn path(random: &mut Random) -> Vec<u8> {
    let mut names = vec![name(random)];
    while names.len() < 5 && random.below(5) < 2 {
        names.push(name(random));
    }
    names.join(&b'/')
}

/// A path as layers write it: `./a`, `/a`, `a//b`, `x/../a`; or the root.
fn raw_path(random: &mut Random) -> Vec<u8> {
    let path = path(random);
    match random.below(24) {
        0 => b"./".to_vec(),
        1..=3 => [b"./", path.as_slice()].concat(),
        4 => [b"/", path.as_slice()].concat(),
        5 => [b"x/.././/", path.as_slice()].concat(),
        6 if random.one_in(4) => [b"../", path.as_slice()].concat(),
        _ => path,
    }
}

fn target(random: &mut Random) -> Vec<u8> {
    let path = path(random);
    let before: &[u8] = random.pick(&[&b""[..], b"", b"/", b"../", b"../../", b"./", b"/../"]);
    if random.one_in(20) { b".".to_vec() } else { [before, path.as_slice()].concat() }
}

fn meta(random: &mut Random, with_xattrs: bool) -> Meta {
    let mut xattrs = BTreeMap::new();
    while with_xattrs && random.one_in(4) {
        xattrs.insert(random.pick(&["user.k", "user.l"]).into(), random.next().to_string().into());
    }
    Meta {
        mode: random.pick(&[0o755, 0o644, 0o600, 0o4755, 0o2711, 0o1777, 0o555, 0]),
        owner: random.pick(&[(0, 0), (0, 0), (1000, 1000), (33, 0), (70_000, 3_000_000)]),
        mtime: random.pick(&[(1_700_000_000, 0), (5, 999_999_999), (-5, 250_000_000), (0, 0)]),
        xattrs,
    }
}

/// The entry with what umoci needs before it, or nothing where umoci does otherwise.
fn tame(random: &mut Random, model: &Model, op: Op) -> Vec<Op> {
    let (path, alike) = match &op {
        Op::Whiteout(path) => (None, model.is_plain(&parent(path))),
        Op::Opaque(path) => (None, model.is_plain(path)),
        Op::HardLink(path, target, _) => {
            let itself = model.place_of(path) == model.place_of(target);
            (Some(path), !itself && model.is_plain(&parent(target)))
        }
        Op::Dir(path, _) | Op::Leaf(path, ..) => (Some(path), !path.starts_with(AUFS_LINKS)),
    };
    if !alike {
        return Vec::new();
    }
    let Some(path) = path else { return vec![op] };
    let mut ops = Vec::new();
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    for end in slashes {
        let parent = &path[..end];
        if !model.has_own_dir(parent) {
            ops.push(Op::Dir(parent.to_vec(), meta(random, true)));
        }
    }
    ops.push(op);
    ops
}

/// The layer's archive.
pub(crate) fn layer(ops: &[Op], compression: Compression) -> Layer {
    let entry = |typeflag, path: &[u8], meta: Option<&Meta>| {
        let mut entry = Entry::new(typeflag, path);
        if let Some(meta) = meta {
            entry.mode = meta.mode;
            (entry.uid, entry.gid) = (meta.owner.0.into(), meta.owner.1.into());
            (entry.mtime, entry.mtime_nanos) = meta.mtime;
            let xattr = |(name, value): (&String, &Vec<u8>)| {
                (format!("SCHILY.xattr.{name}").into_bytes(), value.clone())
            };
            entry.pax = meta.xattrs.iter().map(xattr).collect();
        }
        entry
    };
    let beside = |dir: &[u8], name: &[u8]| match dir {
        b"" => name.to_vec(),
        _ => [dir, b"/", name].concat(),
    };
    let to_entry = |op: &Op| match op {
        Op::Dir(path, meta) => entry(b'5', path, Some(meta)),
        Op::Leaf(path, kind, meta) => {
            let mut entry = entry(b'0', path, Some(meta));
            match kind {
                Kind::File(data) => entry.data.clone_from(data),
                Kind::Symlink(target) => {
                    (entry.typeflag, entry.link) = (b'2', target.clone());
                }
                Kind::Fifo => entry.typeflag = b'6',
                Kind::Char(major, minor) => {
                    (entry.typeflag, entry.device) = (b'3', (*major, *minor));
                }
            }
            entry
        }
        Op::HardLink(path, target, meta) => {
            let mut entry = entry(b'1', path, meta.as_ref());
            entry.link.clone_from(target);
            entry
        }
        Op::Whiteout(path) => {
            let slash = path.iter().rposition(|&b| b == b'/');
            let (dir, name) =
                slash.map_or((&b""[..], &path[..]), |at| (&path[..at], &path[at + 1..]));
            entry(b'0', &beside(dir, &[b".wh.", name].concat()), None)
        }
        Op::Opaque(dir) => entry(b'0', &beside(dir, b".wh..wh..opq"), None),
    };
    let whole = ops.iter().fold(LayerBuilder::new(), |layer, op| layer.entry(to_entry(op)));
    whole.build(compression)
}

/// Smaller stacks, each with a layer or an entry less.
pub(crate) fn smaller(stack: &[Vec<Op>]) -> Vec<Vec<Vec<Op>>> {
    let mut all = Vec::new();
    for at in 0..stack.len() {
        let mut without = stack.to_vec();
        without.remove(at);
        all.push(without);
    }
    for at in 0..stack.len() {
        for entry in 0..stack[at].len() {
            let mut without = stack.to_vec();
            without[at].remove(entry);
            all.push(without);
        }
    }
    all
}
