//! Ready-made images.

use crate::image::{Blob, BuiltImage, Image, Platform};
use crate::layers::{Compression, Layer, LayerBuilder};
use crate::media;
use crate::registry::Registry;
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// Where Debian's busybox-static and busybox put their program.
const BUSYBOX_PATHS: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// The page that the busybox image serves.
pub const BUSYBOX_PAGE: &str = "<h1>It works</h1>\n<p>served from inside a container</p>\n";

/// The historic length, in bytes, of Docker Hub's manifest list for `centos:latest`.
pub const CENTOS_LIST_BYTES: usize = 762;

/// An image of Debian's static busybox for this machine: serves `/var/www` on port 8080.
pub fn busybox() -> Image {
    busybox_image(Image::new())
}

/// The layer of [`busybox`].
pub fn busybox_layer() -> Layer {
    let (program, applets) = busybox_program();
    let mut layer = LayerBuilder::new()
        .dir("bin", 0o755)
        .program("bin/busybox", program)
        .dir("dev", 0o755)
        .dir("etc", 0o755)
        .file("etc/passwd", PASSWD)
        .file("etc/group", GROUP)
        .dir("home", 0o755)
        .dir("home/user", 0o755)
        .owner(1000, 1000)
        .dir("proc", 0o555)
        .dir("root", 0o700)
        .dir("run", 0o755)
        .dir("sys", 0o555)
        .dir("tmp", 0o1777)
        .dir("var", 0o755)
        .dir("var/www", 0o755)
        .file("var/www/index.html", BUSYBOX_PAGE);
    for applet in applets {
        layer = layer.symlink(format!("bin/{applet}"), "busybox");
    }
    layer.build(Compression::Gzip)
}

/// The root filesystem of [`busybox`] as a directory; `dir` is made when it is not there.
pub fn busybox_rootfs(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let tar = tempfile::NamedTempFile::new().unwrap();
    let layer = busybox_layer();
    std::fs::write(tar.path(), &layer.bytes).unwrap();
    let mut command = Command::new("tar");
    command.arg("-xzpf").arg(tar.path()).arg("-C").arg(dir).arg("--no-same-owner");
    let status = command.status().expect("tar runs");
    assert!(status.success(), "{command:?}: {status}");
}

/// `centos:latest` as Docker Hub had it in form: a docker manifest list of [`CENTOS_LIST_BYTES`]
/// bytes for amd64, arm64 and one platform more (always one of them this machine's), schema 2
/// manifests, and for each a config and two gzip layers.
pub fn centos_recorded() -> RecordedCentos {
    let host = Platform::host();
    let mut platforms = vec![Platform::linux("amd64"), Platform::linux("arm64/v8")];
    platforms.push(match platforms.contains(&host) {
        true => Platform::linux("ppc64le"),
        false => host,
    });
    let images: Vec<BuiltImage> = platforms.iter().map(centos_image).collect();
    // Compact, with sorted keys, as Docker's official-images tool writes lists.
    let entries: Vec<_> = images.iter().map(list_entry).collect();
    let list = json!({
        "manifests": entries,
        "mediaType": media::DOCKER_LIST,
        "schemaVersion": 2,
    });
    let mut bytes = serde_json::to_vec(&list).unwrap();
    assert!(bytes.len() <= CENTOS_LIST_BYTES, "a list of {} bytes", bytes.len());
    bytes.resize(CENTOS_LIST_BYTES, b'\n');
    RecordedCentos { list: Blob::new(media::DOCKER_LIST, bytes), images }
}

/// The answers of the recorded walk.
#[derive(Clone, Debug)]
pub struct RecordedCentos {
    /// The manifest list.
    pub list: Blob,
    /// Its images.
    pub images: Vec<BuiltImage>,
}

impl RecordedCentos {
    /// The image for this machine.
    pub fn host_image(&self) -> &BuiltImage {
        let host = Platform::host();
        self.images.iter().find(|i| i.platform == host).expect("the host is one of the platforms")
    }

    /// Stores all of it, such as under `library/centos` and `latest`.
    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) {
        for image in &self.images {
            image.push(registry, repository, image.digest());
        }
        let Blob { media_type, bytes, .. } = &self.list;
        registry.put_manifest(repository, tag, media_type, bytes.clone());
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/:/bin/false\n\
    user:x:1000:1000:user:/home/user:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww:x:33:user\nuser:x:1000:\nnogroup:x:65534:\n";

fn busybox_image(image: Image) -> Image {
    image
        .layer(busybox_layer())
        .env("PATH=/bin")
        .cmd(&["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/var/www"])
        .workdir("/")
        .stop_signal("SIGTERM")
        .expose("8080/tcp")
        .history("busybox", false)
}

/// Debian's program and the names of its applets.
fn busybox_program() -> (Vec<u8>, Vec<String>) {
    let path = BUSYBOX_PATHS.iter().find(|path| Path::new(path).exists());
    let path = path.expect("no busybox on this machine: apt-get install busybox-static");
    let program = std::fs::read(path).unwrap();
    assert!(!has_loader(&program), "{path} is not static: apt-get install busybox-static");
    let list = Command::new(path).arg("--list").output().expect("busybox runs");
    let applets = String::from_utf8(list.stdout).unwrap();
    let applets = applets.lines().filter(|name| *name != "busybox").map(str::to_owned);
    (program, applets.collect())
}

/// Whether a 64-bit little-endian ELF program has a PT_INTERP header (elf(5)): a dynamic one, whose
/// loader and libraries the image would lack.
fn has_loader(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let u32_at = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap());
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let (start, size, count) = (u32_at(32) as usize, u16_at(54), u16_at(56));
    (0..count).any(|header| u32_at(start + header * size) == PT_INTERP)
}

fn centos_image(platform: &Platform) -> BuiltImage {
    let arch = &platform.architecture;
    let base = LayerBuilder::new()
        .dir("etc", 0o755)
        .file("etc/centos-release", "CentOS Linux release 8.4.2105\n")
        .file("etc/arch", format!("{arch}\n"))
        .file("etc/removed", "in the first layer only\n")
        .dir("usr", 0o755)
        .dir("usr/bin", 0o755)
        .symlink("bin", "usr/bin")
        .program("usr/bin/true", "#!/bin/sh\n");
    let upper = LayerBuilder::new().whiteout("etc/removed").file("etc/added", "second layer\n");
    Image::docker()
        .platform(platform.clone())
        .layer(base.build(Compression::Gzip))
        .layer(upper.build(Compression::Gzip))
        .env("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .cmd(&["/bin/bash"])
        .label("org.label-schema.name", "CentOS Base Image")
        .build()
}

fn list_entry(image: &BuiltImage) -> serde_json::Value {
    let mut entry = image.manifest.descriptor();
    entry["platform"] = image.platform.json();
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_centos_list_has_its_historic_length_and_type() {
        let centos = centos_recorded();
        assert_eq!(centos.list.bytes.len(), 762);
        let list: serde_json::Value = serde_json::from_slice(&centos.list.bytes).unwrap();
        assert_eq!(list["mediaType"], media::DOCKER_LIST);
        assert_eq!(list["manifests"].as_array().unwrap().len(), 3);
        assert_eq!(list["manifests"][0]["platform"]["architecture"], "amd64");
        assert_eq!(centos.host_image().platform, Platform::host());
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        assert!(has_loader(&std::fs::read("/usr/bin/setpriv").unwrap()));
        // The tests themselves are static.
        assert!(!has_loader(&std::fs::read("/proc/self/exe").unwrap()));
    }

    #[test]
    fn a_busybox_rootfs_runs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        busybox_rootfs(&root);
        let mut command = Command::new(root.join("bin/busybox"));
        let output = command.args(["cat"]).arg(root.join("var/www/index.html")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), BUSYBOX_PAGE);
        assert!(root.join("bin/sh").symlink_metadata().unwrap().is_symlink());
        let mode = |path: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            root.join(path).metadata().unwrap().permissions().mode() & 0o7777
        };
        assert_eq!((mode("tmp"), mode("root")), (0o1777, 0o700));
    }
}
