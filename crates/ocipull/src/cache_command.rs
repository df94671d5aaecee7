//! `ocipull cache`: what is in the cache, less of it, and whether it is right.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use ctsys::report::{Explain, escape};
use ocipull::cache::{self, Cache, CacheError, Checked, Keep, Stock, Swept};
use ocipull::event::Silent;
use serde_json::json;

use crate::progress::size;

/// Units of time for `--older-than`, in seconds.
const AGES: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
/// Units of size for `--max-size`: decimal as sizes are shown, binary with an i.
const SIZES: [(&str, u64); 9] = [
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("", 1),
];
/// Digits of a digest that are enough for people.
const SHORT_DIGEST_CHARS: usize = 12;

/// What to do with the cache.
#[derive(Debug, Subcommand)]
pub(crate) enum TypedCache {
    /// List the images, and say how much there is
    Ls {
        /// Everything, also every blob, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what is unfinished and what belongs to no image; more, if asked
    ///
    /// What a pull is using at the moment always stays.
    Prune(TypedPrune),
    /// Hash every blob anew; remove those that are damaged, and exit with 1 if there were any
    Verify,
}

#[derive(Debug, Args)]
pub(crate) struct TypedPrune {
    /// Also the images that were not used for so long: 12h, 7d, 4w
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// Also the images used least recently, until all together have at most SIZE: 500M, 10G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Also all images
    #[arg(long, conflicts_with_all = ["older_than", "max_size"])]
    all: bool,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheCommandError {
    #[error("cannot use the cache")]
    Cache(#[from] CacheError),
    #[error("cache {root:?}: {damaged} of {blobs} blobs were damaged and are removed")]
    Damaged { root: PathBuf, damaged: usize, blobs: usize },
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Explain for CacheCommandError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Cache(error) => error.hint(),
            Self::Damaged { .. } => Some("the next pull that needs them fetches them anew".into()),
            Self::Output(_) => None,
        }
    }
}

impl TypedCache {
    /// Does it, and prints what came of it.
    pub(crate) fn run(self) -> Result<(), CacheCommandError> {
        let root = cache::directory(|name| std::env::var_os(name))?;
        let cache = Cache::open(&root, Arc::new(Silent))?;
        match self {
            Self::Ls { json: true } => print(&as_json(&cache.stock()?)),
            Self::Ls { json: false } => print(&as_table(&cache.stock()?)),
            Self::Prune(typed) => print(&pruned(&cache.prune(typed.meaning())?)),
            Self::Verify => {
                let Checked { blobs, damaged } = cache.check()?;
                for digest in &damaged {
                    print(&format!("removed {digest}\n"))?;
                }
                if damaged.is_empty() {
                    return print(&format!("{blobs} blobs are right\n"));
                }
                Err(CacheCommandError::Damaged { root, damaged: damaged.len(), blobs })
            }
        }
    }
}

impl TypedPrune {
    fn meaning(self) -> Keep {
        Keep { younger_than: self.older_than, max_bytes: self.max_size, nothing: self.all }
    }
}

fn print(text: &str) -> Result<(), CacheCommandError> {
    match io::stdout().write_all(text.as_bytes()) {
        // Who has seen enough (head) is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CacheCommandError::Output(error))
        }
        _ => Ok(()),
    }
}

fn as_table(stock: &Stock) -> String {
    let mut rows = vec![["IMAGE", "DIGEST", "SIZE", "LAST USED"].map(str::to_owned)];
    rows.extend(stock.images.iter().map(|image| {
        let digest: String = image.digest.digest().chars().take(SHORT_DIGEST_CHARS).collect();
        let reference = image.reference.as_deref().unwrap_or("-");
        [escape(reference).into_owned(), digest, size(image.bytes), ago(image.used)]
    }));
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [image, digest, size, used] in &rows {
        let [a, b, c] = widths;
        text.push_str(&format!("{image:a$}  {digest:b$}  {size:>c$}  {used}\n"));
    }
    let blobs = |of_image: bool| {
        let chosen = stock.blobs.iter().filter(|blob| blob.is_of_image == of_image);
        let (count, bytes) = chosen.fold((0, 0), |(n, sum), blob| (n + 1, sum + blob.bytes));
        format!("{count} blobs, {}", size(bytes))
    };
    let (partials, bytes) = (stock.partial_bytes.len(), stock.partial_bytes.iter().sum());
    text.push_str(&format!(
        "of images: {}; of none: {}; unfinished: {partials}, {}\n",
        blobs(true),
        blobs(false),
        size(bytes)
    ));
    text
}

fn as_json(stock: &Stock) -> String {
    let epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let images = stock.images.iter().map(|image| {
        let mut blobs: Vec<String> = image.blobs.iter().map(ToString::to_string).collect();
        blobs.sort();
        json!({
            "reference": image.reference,
            "digest": image.digest.to_string(),
            "bytes": image.bytes,
            "usedAt": epoch(image.used),
            "blobs": blobs,
        })
    });
    let blobs = stock.blobs.iter().map(|blob| {
        json!({
            "digest": blob.digest.to_string(),
            "bytes": blob.bytes,
            "usedAt": epoch(blob.used),
            "ofImage": blob.is_of_image,
        })
    });
    let all = json!({
        "images": images.collect::<Vec<_>>(),
        "blobs": blobs.collect::<Vec<_>>(),
        "partialBytes": stock.partial_bytes,
    });
    format!("{all:#}\n")
}

fn pruned(swept: &Swept) -> String {
    let Swept { images, blobs, partials, bytes, in_use } = swept;
    let mut text = format!(
        "removed {images} images, {blobs} blobs, {partials} unfinished; freed {}\n",
        size(*bytes)
    );
    if *in_use > 0 {
        text.push_str(&format!("left {in_use} that a pull is using\n"));
    }
    text
}

/// `5 min ago`
fn ago(moment: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(moment).unwrap_or_default().as_secs();
    match seconds {
        _ if moment == UNIX_EPOCH => "-".into(),
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let want = "want a number and s, m, h, d or w, as in 7d";
    parse(text, &AGES, want).map(Duration::from_secs)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let want = "want bytes, or a number and k, M, G, T, Ki, Mi, Gi or Ti, as in 10G";
    parse(text, &SIZES, want)
}

fn parse(text: &str, units: &[(&str, u64)], want: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = units.iter().find(|(name, _)| *name == unit);
    let value = number.parse::<u64>().ok().zip(unit).and_then(|(n, (_, of))| n.checked_mul(*of));
    value.ok_or_else(|| want.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_have_units() {
        assert_eq!(parse_age("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse_age("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_size("10G"), Ok(10_000_000_000));
        assert_eq!(parse_size("2Ki"), Ok(2048));
        assert_eq!(parse_size("0"), Ok(0));
        for wrong in ["", "7", "d", "-1d", "1y", "1.5d", "99999999999999999999w"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "G", "10g", "10GB", "20000000T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ages_for_people() {
        let before = |seconds| ago(SystemTime::now() - Duration::from_secs(seconds));
        assert_eq!(before(65), "1 min ago");
        assert_eq!(before(7300), "2 h ago");
        assert_eq!(before(900_000), "10 days ago");
        assert_eq!(ago(UNIX_EPOCH), "-");
    }
}
