//! `ocipull tags`: what a repository, a layout or an archive holds.

use clap::Args;
use ocipull::error::PullError;
use ocipull::location::ImageLocation;
use ocipull::open;
use ocipull::registry::Registry;
use serde_json::json;

use super::{ShowError, TypedQuery, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct TypedTags {
    #[command(flatten)]
    query: TypedQuery,
    /// Print them as JSON, with the repository written out
    #[arg(long)]
    json: bool,
}

impl TypedTags {
    pub(super) async fn run(self) -> Result<(), ShowError> {
        let query = self.query.meaning()?;
        let (place, tags) = match query.image.location {
            // A tag or digest that was typed is no part of the repository.
            ImageLocation::Registry(reference) => {
                let registry = Registry::new(&reference, &query.image.registry, query.observer)
                    .map_err(PullError::from)?;
                let place = format!("{}/{}", reference.registry(), reference.repository());
                (place, registry.tags().await.map_err(PullError::from)?)
            }
            local => (local.to_string(), open::names(local).await?),
        };
        if self.json {
            return print_json(&json!({ "repository": place, "tags": tags }));
        }
        let lines: String =
            tags.iter().flat_map(|tag| [ctsys::report::escape(tag), "\n".into()]).collect();
        print(lines.as_bytes())
    }
}
