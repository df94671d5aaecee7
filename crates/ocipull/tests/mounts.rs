//! What the host has mounted inside of a root filesystem outlives it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::process::Command;

use common::{Place, Run, serve};
use testkit::registry::RegistryOptions;

#[test]
fn neither_rm_nor_force_reaches_into_a_mount() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    place.run(&[&image, "d"]).succeeded();
    std::fs::create_dir(place.path("host")).unwrap();
    std::fs::write(place.path("host/precious"), "1").unwrap();
    let record = place.record("d");
    for arguments in [vec!["rm", "d"], vec!["--force", &image, "d"]] {
        // A mount namespace of its own, so that nothing stays mounted whatever happens.
        let inner = place.command(&arguments);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", "mount --bind host d/etc && exec \"$@\"", "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir(place.path(""));
        let run = Run::of(command);
        run.failed(1, &["/d/etc\" is mounted inside of"]).hints("unmount it first");
        let kept = std::fs::read_to_string(place.path("host/precious"));
        assert_eq!(kept.unwrap(), "1", "{arguments:?}");
        let own = std::fs::read_to_string(place.path("d/etc/name"));
        assert_eq!(own.unwrap(), "lower\n", "{arguments:?} changed the tree");
        assert_eq!(place.record("d"), record);
        assert_eq!(place.names(), ["d", "d.image.json", "host"]);
    }
}
