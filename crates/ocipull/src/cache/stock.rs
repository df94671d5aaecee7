//! What is in the cache, what of it is of use, and what of it is right.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageManifest};

use super::index::{self, Index};
use super::{Cache, CacheError, place};
use crate::image::MAX_MANIFEST_BYTES;
use crate::verify::Verifier;

/// An index may name indexes; no deeper than this is anything looked for.
const MAX_INDEX_DEPTH: usize = 4;
/// Read at once while a blob is hashed, in bytes.
const READ_BYTES: usize = 256 << 10;

/// Everything in the cache.
#[derive(Debug)]
pub struct Stock {
    /// What index.json names, in its order.
    pub images: Vec<StockedImage>,
    /// Every blob.
    pub blobs: Vec<StockedBlob>,
    /// Sizes of what is unfinished, in bytes.
    pub partial_bytes: Vec<u64>,
}

/// What a reference stood for.
#[derive(Debug)]
pub struct StockedImage {
    /// Written out; `None` for what another tool put there without a name.
    pub reference: Option<String>,
    /// What the reference stood for: an index, or a manifest where there is none.
    pub digest: Digest,
    /// What is here of it.
    pub blobs: HashSet<Digest>,
    /// The sizes of that together.
    pub bytes: u64,
    /// When it was pulled or used last, in the best knowledge of the file system.
    pub used: SystemTime,
}

/// A blob that is whole, though perhaps not right.
#[derive(Debug)]
pub struct StockedBlob {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// When it was written or used last.
    pub used: SystemTime,
    /// Whether an image that index.json names has it.
    pub is_of_image: bool,
}

/// What pruning leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Images not used for longer than this go.
    pub younger_than: Option<Duration>,
    /// The images used least recently go, until all blobs together have at most so many bytes.
    pub max_bytes: Option<u64>,
    /// All images go.
    pub nothing: bool,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Names taken out of index.json.
    pub images: usize,
    /// Blobs removed.
    pub blobs: usize,
    /// Unfinished ones removed.
    pub partials: usize,
    /// The sizes of both together.
    pub bytes: u64,
    /// Left because a pull is using them.
    pub in_use: usize,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Those that were not what their name says, and are removed.
    pub damaged: Vec<Digest>,
}

impl Cache {
    /// Looks at everything. Files whose names are no digests are passed over.
    pub fn stock(&self) -> Result<Stock, CacheError> {
        let mut blobs = self.blobs()?;
        let sizes: HashMap<Digest, (u64, SystemTime)> =
            blobs.iter().map(|blob| (blob.digest.clone(), (blob.bytes, blob.used))).collect();
        let index = Index::read(&self.root);
        let images: Vec<StockedImage> =
            index.images.iter().map(|image| self.stocked(image, &sizes)).collect();
        for blob in &mut blobs {
            blob.is_of_image = images.iter().any(|image| image.blobs.contains(&blob.digest));
        }
        let partials = files(&self.root.join("partial"))?;
        let partial_bytes = partials.iter().map(|(_, found)| found.len()).collect();
        Ok(Stock { images, blobs, partial_bytes })
    }

    /// Removes what is unfinished, the images that are not to be kept, and the blobs that no image
    /// has. What a pull is using stays.
    pub fn prune(&self, keep: Keep) -> Result<Swept, CacheError> {
        let _lock = self.lock_exclusively().map_err(place::failed("lock", &self.root))?;
        let stock = self.stock()?;
        let mut swept = Swept::default();
        let kept = kept_images(&stock, keep);
        let mut index = Index::read(&self.root);
        swept.images = stock.images.len() - kept.len();
        if swept.images > 0 {
            let mut position = 0..;
            index.images.retain(|_| position.next().is_some_and(|at| kept.contains(&at)));
            let written = index.write(&self.root);
            written.map_err(place::failed("write", &self.root.join("index.json")))?;
        }
        let used: HashSet<&Digest> =
            kept.iter().filter_map(|at| stock.images.get(*at)).flat_map(|i| &i.blobs).collect();
        for blob in stock.blobs.iter().filter(|blob| !used.contains(&blob.digest)) {
            if remove_unused(&self.blob_path(&blob.digest), &mut swept) {
                swept.blobs += 1;
            }
        }
        for (path, _) in files(&self.root.join("partial"))? {
            if remove_unused(&path, &mut swept) {
                swept.partials += 1;
            }
        }
        // Nobody writes index.json now, so what would have become one was left by a killed run.
        for (path, _) in files(&self.root)? {
            if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".index.json.")) {
                let _ = fs::remove_file(path);
            }
        }
        Ok(swept)
    }

    /// Hashes every blob anew and removes those that are not what they should be.
    pub fn check(&self) -> Result<Checked, CacheError> {
        let mut checked = Checked::default();
        for blob in self.blobs()? {
            let path = self.blob_path(&blob.digest);
            checked.blobs += 1;
            match is_right(&path, &blob.digest) {
                Ok(true) => {}
                // Removed by somebody since it was seen.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(false) | Err(_) => {
                    fs::remove_file(&path).map_err(place::failed("remove", &path))?;
                    checked.damaged.push(blob.digest);
                }
            }
        }
        Ok(checked)
    }

    fn blobs(&self) -> Result<Vec<StockedBlob>, CacheError> {
        let dir = self.root.join("blobs");
        let mut blobs = Vec::new();
        let algorithms = fs::read_dir(&dir).map_err(place::failed("read", &dir))?;
        for algorithm in algorithms.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            for (path, found) in files(&algorithm.path())? {
                let hex = path.file_name().unwrap_or_default().to_string_lossy();
                let name = format!("{}:{hex}", algorithm.file_name().to_string_lossy());
                let Ok(digest) = Digest::from_str(&name) else { continue };
                let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                blobs.push(StockedBlob { digest, bytes: found.len(), used, is_of_image: false });
            }
        }
        blobs.sort_by(|a, b| a.digest.as_ref().cmp(b.digest.as_ref()));
        Ok(blobs)
    }

    fn stocked(
        &self,
        image: &Descriptor,
        sizes: &HashMap<Digest, (u64, SystemTime)>,
    ) -> StockedImage {
        let (resolved, mut blobs) = (index::resolved(image), HashSet::new());
        self.collect(image.digest(), 0, sizes, &mut blobs);
        self.collect(&resolved, 0, sizes, &mut blobs);
        let (_, used) = sizes.get(image.digest()).copied().unwrap_or((0, SystemTime::UNIX_EPOCH));
        StockedImage {
            reference: index::name(image).map(str::to_owned),
            digest: resolved,
            bytes: blobs.iter().filter_map(|blob| sizes.get(blob)).map(|(bytes, _)| bytes).sum(),
            blobs,
            used,
        }
    }

    /// Takes in what is here of a manifest or index, and of all that it names.
    fn collect(
        &self,
        digest: &Digest,
        depth: usize,
        here: &HashMap<Digest, (u64, SystemTime)>,
        blobs: &mut HashSet<Digest>,
    ) {
        if !here.contains_key(digest) || !blobs.insert(digest.clone()) {
            return;
        }
        let Some(bytes) = self.peek(digest) else { return };
        if let Ok(index) = serde_json::from_slice::<ImageIndex>(&bytes)
            && depth < MAX_INDEX_DEPTH
        {
            for entry in index.manifests() {
                self.collect(entry.digest(), depth + 1, here, blobs);
            }
        } else if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&bytes) {
            for part in manifest.layers().iter().chain([manifest.config()]) {
                if here.contains_key(part.digest()) {
                    blobs.insert(part.digest().clone());
                }
            }
        }
    }

    /// A blob that may be a manifest. Looking at it is not using it.
    fn peek(&self, digest: &Digest) -> Option<Vec<u8>> {
        let file = place::options(false).open(self.blob_path(digest)).ok()?;
        let length = file.metadata().ok()?.len();
        if length > MAX_MANIFEST_BYTES {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// Which of the images stay, by their places.
fn kept_images(stock: &Stock, keep: Keep) -> HashSet<usize> {
    if keep.nothing {
        return HashSet::new();
    }
    let now = SystemTime::now();
    let is_young = |image: &StockedImage| {
        let age = now.duration_since(image.used).unwrap_or_default();
        keep.younger_than.is_none_or(|limit| age <= limit)
    };
    let mut by_use: Vec<(usize, &StockedImage)> =
        stock.images.iter().enumerate().filter(|(_, image)| is_young(image)).collect();
    by_use.sort_by_key(|(_, image)| std::cmp::Reverse(image.used));
    let sizes: HashMap<&Digest, u64> =
        stock.blobs.iter().map(|blob| (&blob.digest, blob.bytes)).collect();
    let (mut counted, mut bytes) = (HashSet::new(), 0);
    let fits = |(_, image): &(usize, &StockedImage)| {
        // What images share takes its room once.
        let fresh = image.blobs.iter().filter(|blob| counted.insert((*blob).clone()));
        bytes += fresh.filter_map(|blob| sizes.get(blob)).sum::<u64>();
        keep.max_bytes.is_none_or(|limit| bytes <= limit)
    };
    by_use.into_iter().take_while(fits).map(|(place, _)| place).collect()
}

/// Removes a file that nobody has locked, and counts it.
fn remove_unused(path: &Path, swept: &mut Swept) -> bool {
    let Ok(file) = place::options(false).open(path) else { return false };
    if file.try_lock().is_err() {
        swept.in_use += 1;
        return false;
    }
    let bytes = file.metadata().map_or(0, |found| found.len());
    let removed = fs::remove_file(path).is_ok();
    if removed {
        swept.bytes += bytes;
    }
    removed
}

pub(super) fn is_right(path: &Path, digest: &Digest) -> io::Result<bool> {
    let mut file = place::options(false).open(path)?;
    let Ok(mut verifier) = Verifier::new(digest, None) else { return Ok(false) };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match read_some(&mut file, &mut buffer)? {
            [] => return Ok(verifier.finish().is_ok()),
            piece => {
                if verifier.update(piece).is_err() {
                    return Ok(false);
                }
            }
        }
    }
}

fn read_some<'a>(file: &mut File, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let length = file.read(buffer)?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// The files in a directory that may not exist.
fn files(dir: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>, CacheError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(place::failed("read", dir))?,
    };
    let found = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        let found = fs::symlink_metadata(&path).ok()?;
        (found.is_file() && found.nlink() > 0).then_some((path, found))
    });
    Ok(found.collect())
}
