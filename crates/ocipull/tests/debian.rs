//! Against Debian's docker-registry, filled by Debian's skopeo.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::Place;

/// `alice` with the password `correct horse`, bcrypt, as `htpasswd -B` writes it.
const HTPASSWD: &str = "alice:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";
const CREDS: &str = "alice:correct horse";

/// A docker-registry of the test's own, ended when this is dropped.
struct DockerRegistry {
    process: Child,
    address: String,
    // Its content, and the reader of its messages, which must not be closed before it ends.
    _dir: tempfile::TempDir,
    _messages: BufReader<std::process::ChildStderr>,
}

impl DockerRegistry {
    fn start(with_passwords: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            path("data")
        );
        if with_passwords {
            std::fs::write(path("htpasswd"), HTPASSWD).unwrap();
            let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path("htpasswd"));
            config.push_str(&auth);
        }
        std::fs::write(path("config.yml"), config).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed (Debian package docker-registry)");
        let mut messages = BufReader::new(process.stderr.take().unwrap());
        let mut seen = String::new();
        let address = loop {
            let start = seen.len();
            let read = messages.read_line(&mut seen).unwrap();
            assert!(read > 0, "docker-registry ended: {seen}");
            if let Some((_, rest)) = seen.split_at(start).1.split_once("listening on ") {
                break rest.split(['"', ',', ' ']).next().unwrap().to_owned();
            }
        };
        Self { process, address, _dir: dir, _messages: messages }
    }

    /// Has skopeo push the image in an OCI layout, in docker's or OCI's form.
    fn push(&self, layout: &Path, name: &str, format: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false", "--dest-creds", CREDS])
            .args(["--format", format, &format!("oci:{}:t", layout.display())])
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn layout(dir: &Path) -> testkit::image::BuiltImage {
    let built = testkit::images::busybox().build();
    built.write_oci_layout(dir, "t");
    built
}

#[test]
fn what_skopeo_pushed_is_pulled_in_both_forms() {
    let registry = DockerRegistry::start(false);
    let place = Place::new();
    let built = layout(&place.path("layout"));
    for (format, media_type) in [
        ("oci", "application/vnd.oci.image.manifest.v1+json"),
        ("v2s2", "application/vnd.docker.distribution.manifest.v2+json"),
    ] {
        let name = format!("team/busybox:{format}");
        registry.push(&place.path("layout"), &name, format);
        let image = format!("{}/{name}", registry.address);
        // Both have one layer and config.
        let run = place.run(&["-v", "--no-cache", &image, format]).succeeded();
        let steps: Vec<&str> = run
            .stderr
            .lines()
            .filter(|line| line.starts_with("HEAD ") || line.starts_with("GET "))
            .collect();
        assert_eq!(steps.len(), 4, "HEAD, manifest, config, layer: {run}");
        assert!(steps[0].contains(&format!(" 200 {media_type} sha256:")), "{run}");
        assert!(steps.iter().all(|step| step.contains(" 200 ")), "{run}");
        let page = place.path(format).join("var/www/index.html");
        assert_eq!(std::fs::read_to_string(page).unwrap(), testkit::images::BUSYBOX_PAGE);
        let record = place.record(format);
        assert_eq!(record["config"]["config"]["Cmd"][0], "/bin/busybox");
        if format == "oci" {
            assert_eq!(record["manifestDigest"], built.digest());
        }
        place.run(&[&image, format]).succeeded().says("up to date");
    }
    // A registry that stands in for docker.io.
    let mirror = ["--mirror", &registry.address, "team/busybox:oci", "mirrored"];
    place.run(&mirror).succeeded();
    place
        .run(&[&format!("{}/team/busybox:none", registry.address), "none"])
        .failed(8, &["not found", "404"]);
}

#[test]
fn passwords_are_asked_for_and_taken() {
    let registry = DockerRegistry::start(true);
    let place = Place::new();
    layout(&place.path("layout"));
    registry.push(&place.path("layout"), "busybox:v1", "oci");
    let image = format!("{}/busybox:v1", registry.address);
    place.run(&[&image, "d"]).failed(9, &["wants a login"]).hints("--creds");
    place
        .run(&["-v", "--creds", "alice:wrong", &image, "d"])
        .failed(9, &["access denied", "\"alice\""])
        .keeps_secret("wrong");
    place.run(&["-v", "--creds", CREDS, &image, "d"]).succeeded().keeps_secret("horse");
    // What skopeo's login writes.
    let login = Command::new("skopeo")
        .args(["login", "--tls-verify=false", "--username", "alice", "--password", "correct horse"])
        .arg("--authfile")
        .arg(place.path("auth.json"))
        .arg(&registry.address)
        .output()
        .unwrap();
    assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    place.run(&["--authfile", "auth.json", &image, "e"]).succeeded();
}
