//! `ocipull digest`: what a name stands for.

use clap::Args;
use ocipull::resolve;
use serde_json::json;

use super::{ShowError, TypedQuery, platform, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct TypedDigest {
    #[command(flatten)]
    query: TypedQuery,
    /// Print the digest of this platform's manifest instead of the index's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print it as JSON, with the reference written out
    #[arg(long)]
    json: bool,
}

impl TypedDigest {
    pub(super) async fn run(self) -> Result<(), ShowError> {
        let wanted = platform(self.platform.as_deref())?;
        let (source, cache) = self.query.meaning()?.open().await?;
        let cache = cache.as_deref();
        let named = resolve::name(&source, cache).await?;
        let digest = match wanted {
            None => named.digest,
            Some(wanted) => {
                let mut image = resolve::resolve(&source, cache, named, &wanted).await?;
                // Where there is no index, only the config says for which platform it is.
                resolve::config(&source, cache, &mut image, &wanted).await?;
                image.manifest_digest
            }
        };
        if self.json {
            let (reference, digest) = (source.to_string(), digest.to_string());
            return print_json(&json!({ "reference": reference, "digest": digest }));
        }
        print(format!("{digest}\n").as_bytes())
    }
}
