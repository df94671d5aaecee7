//! An image's properties and labels as annotations (image-spec, conversion.md, "Annotations"), and
//! back.

use std::collections::HashMap;

use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::Spec;

/// The signal that asks the command to stop (image-spec, conversion.md).
pub const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";
/// Whole seconds from that signal until what is left is killed; -1 for ever. No standard names one.
pub const STOP_TIMEOUT: &str = "minirun.stopTimeout";
/// What minirun's own annotations begin with.
pub(crate) const OWN_PREFIX: &str = "minirun.";
const EXPOSED_PORTS: &str = "org.opencontainers.image.exposedPorts";

/// Labels that runtimes take orders from (crun's and runc's own annotations, systemd properties,
/// CRIU, Kata, and minirun's mark): an image must not configure its runtime.
const ORDERS: [&str; 6] = [
    "run.oci.",
    "org.systemd.property.",
    "org.criu.",
    "io.katacontainers.",
    "io.kubernetes.cri",
    OWN_PREFIX,
];

/// The annotations of an image. Labels that are orders to a runtime are left out and noted, as
/// conversion.md asks for.
pub(super) fn convert(
    image: &ImageConfiguration,
    notes: &mut Vec<String>,
) -> HashMap<String, String> {
    let config = image.config().as_ref();
    let mut ports = config.and_then(|c| c.exposed_ports().clone()).unwrap_or_default();
    ports.sort();
    let features = image.os_features().as_ref().map(|features| features.join(","));
    let implicit = [
        ("org.opencontainers.image.os", Some(image.os().to_string())),
        ("org.opencontainers.image.architecture", Some(image.architecture().to_string())),
        ("org.opencontainers.image.variant", image.variant().clone()),
        ("org.opencontainers.image.os.version", image.os_version().clone()),
        ("org.opencontainers.image.os.features", features),
        ("org.opencontainers.image.author", image.author().clone()),
        ("org.opencontainers.image.created", image.created().clone()),
        (STOP_SIGNAL, config.and_then(|c| c.stop_signal().clone())),
        (EXPOSED_PORTS, Some(ports.join(","))),
    ];
    let mut annotations: HashMap<String, String> = implicit
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value.filter(|v| !v.is_empty())?)))
        .collect();
    let mut labels: Vec<_> =
        config.and_then(|c| c.labels().clone()).into_iter().flatten().collect();
    labels.sort();
    for (key, value) in labels {
        if key.is_empty() || ORDERS.iter().any(|prefix| key.starts_with(prefix)) {
            notes.push(format!(
                "the image's label {key:?} would give orders to the runtime and was left out"
            ));
        } else {
            // A label stands above what the image's other fields say.
            annotations.insert(key, value);
        }
    }
    annotations
}

/// The signal that asks the command to stop.
pub(crate) fn stop_signal(spec: &Spec) -> Option<String> {
    spec.annotations().as_ref()?.get(STOP_SIGNAL).cloned()
}

/// The ports that the image says it serves.
pub(crate) fn exposed_ports(spec: &Spec) -> Vec<String> {
    let listed = spec.annotations().as_ref().and_then(|a| a.get(EXPOSED_PORTS));
    let ports = listed.into_iter().flat_map(|list| list.split(','));
    ports.filter(|port| !port.is_empty()).map(str::to_owned).collect()
}
