//! The registry, driven by real clients.

// Helpers of tests fail by panic, as the tests do.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::process::{Command, Output};
use std::time::Duration;
use testkit::image::{Image, Index, Platform};
use testkit::layers::{Compression, Layer, LayerBuilder};
use testkit::media;
use testkit::registry::{Auth, Bearer, Fault, Listener, Registry, RegistryOptions, Rule};

fn layer() -> Layer {
    LayerBuilder::new().dir("d", 0o755).file("d/f", vec![b'x'; 5000]).build(Compression::Gzip)
}

/// A plain registry with `a/b:latest`.
fn registry(options: RegistryOptions) -> Registry {
    let registry = Registry::start(options);
    Image::new().layer(layer()).push(&registry, "a/b", "latest");
    registry
}

struct Answer {
    code: Option<i32>,
    status: u32,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn curl(registry: &Registry, path: &str, args: &[&str]) -> Answer {
    let head = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"])
        .arg("--dump-header")
        .arg(head.path())
        .args(args)
        .arg(format!("{}{path}", registry.base_url()))
        .output()
        .unwrap();
    let head = std::fs::read_to_string(head.path()).unwrap_or_default();
    // The last of several heads: redirects are followed on request.
    let head = head.trim_end().rsplit("\r\n\r\n").next().unwrap_or("").to_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = if args.contains(&"--head") { Vec::new() } else { output.stdout };
    Answer { code: output.status.code(), status, head, body }
}

fn tool(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}: {stderr}", output.status);
    output
}

fn blob_path() -> String {
    format!("/v2/a/b/blobs/{}", layer().digest)
}

#[test]
fn serves_manifests_blobs_and_the_headers_that_go_with_them() {
    let registry = registry(RegistryOptions::default());
    assert_eq!(curl(&registry, "/v2/", &[]).status, 200);
    let head = curl(&registry, "/v2/a/b/manifests/latest?ns=docker.io", &["--head"]);
    let (digest, media_type, bytes) = registry.manifest("a/b", "latest").unwrap();
    assert_eq!((head.status, media_type.as_str()), (200, media::OCI_MANIFEST));
    assert_eq!(head.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
    assert_eq!(head.header("content-type"), Some(media::OCI_MANIFEST));
    let get = curl(&registry, &format!("/v2/a/b/manifests/{digest}"), &[]);
    assert_eq!(get.body, bytes);
    assert_eq!(curl(&registry, &blob_path(), &[]).body, layer().bytes);
    let part = curl(&registry, &blob_path(), &["--range", "3-9"]);
    assert_eq!((part.status, part.body.as_slice()), (206, &layer().bytes[3..10]));
    let range = format!("bytes 3-9/{}", layer().size());
    assert_eq!(part.header("content-range"), Some(range.as_str()));
    assert_eq!(curl(&registry, &blob_path(), &["--range", "999999-"]).status, 416);

    let requests = registry.requests();
    assert_eq!(requests[1].line(), "HEAD /v2/a/b/manifests/latest?ns=docker.io 200");
    assert_eq!(requests[1].query_param("ns").as_deref(), Some("docker.io"));
    assert_eq!(requests[4].range(), Some("bytes=3-9"));
    assert_eq!(requests[1].accept(), "*/*");
}

#[test]
fn refuses_in_the_specifications_words() {
    let registry = registry(RegistryOptions::default());
    let digest = format!("sha256:{}", "0".repeat(64));
    for (path, code) in [
        ("/v2/a/b/manifests/nope".to_owned(), "MANIFEST_UNKNOWN"),
        ("/v2/no/such/manifests/latest".to_owned(), "NAME_UNKNOWN"),
        (format!("/v2/a/b/blobs/{digest}"), "BLOB_UNKNOWN"),
    ] {
        let answer = curl(&registry, &path, &[]);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text().contains(&format!("\"code\":\"{code}\"")), "{}", answer.text());
    }
}

#[test]
fn pages_tags() {
    let registry = Registry::start(RegistryOptions { tags_page: 2, ..Default::default() });
    for tag in ["c", "a", "b"] {
        Image::new().push(&registry, "a/b", tag);
    }
    let first = curl(&registry, "/v2/a/b/tags/list", &[]);
    assert_eq!(first.text(), r#"{"name":"a/b","tags":["a","b"]}"#);
    let link = first.header("link").unwrap();
    assert_eq!(link, "</v2/a/b/tags/list?last=b&n=2>; rel=\"next\"");
    let next = curl(&registry, "/v2/a/b/tags/list?last=b&n=2", &[]);
    let last_page = r#"{"name":"a/b","tags":["c"]}"#;
    assert_eq!((next.text().as_str(), next.header("link")), (last_page, None));
}

#[test]
fn tls_by_its_own_authority_only() {
    let registry = registry(RegistryOptions::tls());
    assert_eq!(curl(&registry, "/v2/", &[]).code, Some(60), "CURLE_PEER_FAILED_VERIFICATION");
    let ca = registry.ca_file().to_str().unwrap();
    assert_eq!(curl(&registry, "/v2/", &["--cacert", ca]).status, 200);
}

#[test]
fn basic_authentication() {
    let registry = registry(RegistryOptions::auth(Auth::basic("me", "pw")));
    let refused = curl(&registry, "/v2/a/b/manifests/latest", &[]);
    assert_eq!(refused.header("www-authenticate"), Some("Basic realm=\"testkit\""));
    assert!(refused.status == 401 && refused.text().contains("UNAUTHORIZED"));
    assert_eq!(curl(&registry, "/v2/a/b/manifests/latest", &["-u", "me:pw"]).status, 200);
    assert_eq!(curl(&registry, "/v2/a/b/manifests/latest", &["-u", "me:no"]).status, 401);
}

#[test]
fn bearer_authentication() {
    let registry = registry(RegistryOptions::auth(Auth::bearer_user("me", "pw")));
    let refused = curl(&registry, "/v2/a/b/manifests/latest", &[]);
    let want = format!(
        "Bearer realm=\"{}/token\",service=\"testkit-registry\",scope=\"repository:a/b:pull\"",
        registry.base_url()
    );
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some(want.as_str())));
    let ask = "/token?service=testkit-registry&scope=repository:a/b:pull";
    assert_eq!(curl(&registry, ask, &[]).status, 401);
    let given = curl(&registry, ask, &["-u", "me:pw"]);
    let token: serde_json::Value = serde_json::from_slice(&given.body).unwrap();
    let header = format!("Authorization: Bearer {}", token["token"].as_str().unwrap());
    let get = |path: &str| curl(&registry, path, &["-H", &header]).status;
    assert_eq!(get("/v2/a/b/manifests/latest"), 200);
    assert_eq!(get("/v2/"), 200);
    assert_eq!(get("/v2/other/manifests/latest"), 401);
    let asked = registry.token_requests();
    assert_eq!(asked[1].scopes, ["repository:a/b:pull"]);
    assert_eq!((asked[1].user.as_deref(), asked[1].granted), (Some("me"), true));
    assert!(!asked[0].granted);
    registry.expire_tokens();
    assert_eq!(get("/v2/a/b/manifests/latest"), 401);
}

#[test]
fn tokens_may_come_from_another_host() {
    let auth = Auth::bearer_anonymous();
    let registry =
        registry(RegistryOptions { separate_tokens: true, ..RegistryOptions::auth(auth) });
    let refused = curl(&registry, "/v2/", &[]);
    let realm = format!("realm=\"http://{}/token\"", registry.token_host());
    assert!(refused.header("www-authenticate").unwrap().contains(&realm), "{}", refused.head);
    assert_ne!(registry.token_host(), registry.host());
    assert_eq!(curl(&registry, "/token", &[]).status, 404);
    let url = format!("http://{}/token?scope=repository:a/b:pull", registry.token_host());
    let output = tool("curl", &["--silent", "--noproxy", "*", &url]);
    let token: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let header = format!("Authorization: Bearer {}", token["access_token"].as_str().unwrap());
    assert_eq!(curl(&registry, "/v2/a/b/manifests/latest", &["-H", &header]).status, 200);
    assert_eq!(registry.requests()[2].listener, Listener::Tokens);
}

#[test]
fn an_identity_token_is_taken_by_the_oauth_form() {
    let bearer = Bearer {
        user: Some(("me".into(), "pw".into())),
        identity_token: Some("refresh-me".into()),
        ..Bearer::default()
    };
    let registry = registry(RegistryOptions::auth(Auth::Bearer(bearer)));
    let form = "grant_type=refresh_token&service=s&scope=repository:a/b:pull&refresh_token=";
    assert_eq!(curl(&registry, "/token", &["-d", &format!("{form}refresh-me")]).status, 200);
    assert_eq!(curl(&registry, "/token", &["-d", &format!("{form}other")]).status, 401);
    assert_eq!(registry.token_requests()[0].grant_type.as_deref(), Some("refresh_token"));
}

#[test]
fn redirected_blobs_come_from_the_other_host_without_authorization() {
    let auth = Auth::basic("u", "p");
    let registry =
        registry(RegistryOptions { redirect_blobs: true, ..RegistryOptions::auth(auth) });
    let answer = curl(&registry, &blob_path(), &["-u", "u:p", "--location"]);
    assert_eq!((answer.status, answer.body), (200, layer().bytes.to_vec()));
    let requests = registry.requests();
    assert_eq!(requests[0].listener, Listener::Registry);
    assert_eq!((requests[0].status, requests[1].listener), (307, Listener::BlobStore));
    assert_eq!(requests[1].authorization(), None);
    // curl is told to hand its secret on: the store refuses it, the record shows it.
    let answer = curl(&registry, &blob_path(), &["-u", "u:p", "--location-trusted"]);
    assert_eq!(answer.status, 400);
    assert!(registry.requests()[3].authorization().is_some());
}

#[test]
fn faults_change_success_as_asked_and_as_often_as_asked() {
    let registry = registry(RegistryOptions::default());
    let bytes = layer().bytes;
    let strike = |fault: Fault| {
        registry.clear_faults();
        registry.inject(Rule::new(fault).method("GET").path("/blobs/").times(1));
        let answer = curl(&registry, &blob_path(), &[]);
        assert_eq!(curl(&registry, &blob_path(), &[]).body, bytes, "used up");
        answer
    };
    let wrong = strike(Fault::WrongBytes);
    assert_eq!((wrong.code, wrong.body.len()), (Some(0), bytes.len()));
    assert_ne!(wrong.body, bytes);

    let short = strike(Fault::TruncateAt(40));
    assert_eq!((short.code, short.body.as_slice()), (Some(18), &bytes[..40]), "CURLE_PARTIAL_FILE");
    assert_eq!(short.header("content-length"), Some(bytes.len().to_string().as_str()));
    assert_eq!(strike(Fault::ResetAt(0)).code, Some(56), "CURLE_RECV_ERROR");
    assert_eq!(strike(Fault::Reset).code, Some(56));
    assert_eq!(strike(Fault::Close).code, Some(52), "CURLE_GOT_NOTHING");

    let small = strike(Fault::ContentLength(7));
    assert_eq!(small.body, &bytes[..7]);
    let large = strike(Fault::ContentLength(1 << 40));
    assert_eq!((large.code, large.body), (Some(18), bytes.to_vec()));
    assert_eq!(strike(Fault::Digest(None)).header("docker-content-digest"), None);
    let other = strike(Fault::Digest(Some("sha256:0".into())));
    assert_eq!(other.header("docker-content-digest"), Some("sha256:0"));
    assert_eq!(strike(Fault::Body(b"else".to_vec())).body, b"else");
    let chunked = strike(Fault::Chunked);
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    assert_eq!(chunked.body, bytes);
    let slow = strike(Fault::Trickle { bytes: 20, pause: Duration::from_millis(1) });
    assert_eq!(slow.body, bytes);

    let busy = strike(Fault::status(429, "TOOMANYREQUESTS").with_header("Retry-After", "3"));
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("3")));
    assert!(busy.text().contains("TOOMANYREQUESTS"));
    assert_eq!(strike(Fault::Delay(Duration::from_millis(1))).body, bytes);
}

#[test]
fn faults_of_endless_and_silent_bodies() {
    let registry = registry(RegistryOptions::default());
    registry.inject(Rule::new(Fault::Endless(None)).times(1));
    let endless = curl(&registry, &blob_path(), &["--limit-rate", "1M", "--max-time", "2"]);
    assert_eq!(endless.code, Some(28), "CURLE_OPERATION_TIMEDOUT");
    assert!(endless.body.len() > layer().bytes.len(), "{}", endless.body.len());
    registry.inject(Rule::new(Fault::StallAt(10)).times(1));
    assert_eq!(silence_after(&registry, &blob_path()).as_deref(), Some(&layer().bytes[..10]));
    registry.inject(Rule::new(Fault::Hang).times(1));
    assert_eq!(silence_after(&registry, "/v2/"), None);
    assert_eq!(registry.requests()[2].status, 0);
}

/// The part of the body that comes before the server falls silent; `None` when no head comes.
fn silence_after(registry: &Registry, path: &str) -> Option<Vec<u8>> {
    let mut stream = std::net::TcpStream::connect(registry.addr()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection stays");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(bytes.split_off(end + 4))
}

#[test]
fn a_large_body_that_is_cut_arrives_up_to_the_cut() {
    let registry = registry(RegistryOptions::default());
    let digest = registry.put_blob(vec![9; 20_000_000]);
    registry.inject(Rule::new(Fault::TruncateAt(12_345_678)));
    // Slowed, so that the sockets' buffers are full when the end comes.
    let answer = curl(&registry, &format!("/v2/a/b/blobs/{digest}"), &["--limit-rate", "20M"]);
    assert_eq!((answer.code, answer.body.len()), (Some(18), 12_345_678));
}

#[test]
fn rules_choose_by_method_range_and_count() {
    let registry = registry(RegistryOptions::default());
    registry.inject(Rule::new(Fault::status(405, "UNSUPPORTED")).method("HEAD"));
    assert_eq!(curl(&registry, "/v2/a/b/manifests/latest", &["--head"]).status, 405);
    assert_eq!(curl(&registry, "/v2/a/b/manifests/latest", &[]).status, 200);
    registry.inject(Rule::new(Fault::IgnoreRange).with_range(true).skip(1).times(1));
    let statuses = [0; 3].map(|_| curl(&registry, &blob_path(), &["--range", "5-"]).status);
    assert_eq!(statuses, [206, 200, 206]);
    registry.inject(Rule::new(Fault::ContentRange("bytes 0-1/9".into())).with_range(true));
    let part = curl(&registry, &blob_path(), &["--range", "5-"]);
    assert_eq!(part.header("content-range"), Some("bytes 0-1/9"));
}

#[test]
fn faults_strike_behind_tls_and_on_the_blob_store() {
    let registry = registry(RegistryOptions { redirect_blobs: true, ..RegistryOptions::tls() });
    registry.inject(Rule::new(Fault::TruncateAt(9)).path("/blobs/"));
    let ca = registry.ca_file().to_str().unwrap().to_owned();
    let answer = curl(&registry, &blob_path(), &["--cacert", &ca, "--location"]);
    assert_eq!(answer.body, &layer().bytes[..9]);
    assert_ne!(answer.code, Some(0));
}

#[test]
fn skopeo_pushes_and_pulls() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let image = Image::new().layer(layer()).cmd(&["/f"]).build();
    image.write_oci_layout(&layout, "t");
    let registry = Registry::start(RegistryOptions::auth(Auth::bearer_user("me", "pw")));
    let from = format!("oci:{}:t", layout.display());
    let to = format!("docker://{}/pushed/image:v1", registry.host());
    tool("skopeo", &["copy", "--dest-creds=me:pw", "--dest-tls-verify=false", &from, &to]);
    let (digest, _, _) = registry.manifest("pushed/image", "v1").unwrap();
    assert_eq!(digest, image.digest());
    assert_eq!(registry.blob(&layer().digest).unwrap(), layer().bytes);

    let back = dir.path().join("back");
    let into = format!("oci:{}:t", back.display());
    tool("skopeo", &["copy", "--src-creds=me:pw", "--src-tls-verify=false", &to, &into]);
    let other = Registry::start(RegistryOptions::default());
    assert_eq!(other.load_oci_layout(&back, "x/y", "z"), image.digest());
    assert_eq!(other.blob(&layer().digest).unwrap(), layer().bytes);
}

/// From a container made from scratch, in a storage of the test's own.
#[test]
fn buildah_pushes() {
    let dir = tempfile::tempdir().unwrap();
    let root = format!("--root={}", dir.path().join("root").display());
    let runroot = format!("--runroot={}", dir.path().join("run").display());
    let common = [root.as_str(), &runroot, "--storage-driver=vfs"];
    let buildah = |args: &[&str]| {
        let output = tool("buildah", &[&common, args].concat());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let registry = Registry::start(RegistryOptions::default());
    std::fs::write(dir.path().join("motd"), "pushed by buildah\n").unwrap();
    let container = buildah(&["from", "scratch"]);
    let motd = dir.path().join("motd");
    buildah(&["copy", &container, motd.to_str().unwrap(), "/etc/motd"]);
    buildah(&["commit", &container, "made"]);
    let to = format!("docker://{}/from/buildah:1", registry.host());
    buildah(&["push", "--tls-verify=false", "made", &to]);
    let (_, media_type, manifest) = registry.manifest("from/buildah", "1").unwrap();
    assert_eq!(media_type, media::OCI_MANIFEST);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    assert!(registry.blob(digest).is_some(), "{manifest}");
}

#[test]
fn skopeo_reads_an_index_of_docker_and_of_oci() {
    let registry = Registry::start(RegistryOptions::default());
    let of =
        |image: Image, arch: &str| image.layer(layer()).platform(Platform::linux(arch)).build();
    Index::new().image(of(Image::new(), "amd64")).image(of(Image::new(), "arm64/v8")).push(
        &registry,
        "oci/multi",
        "latest",
    );
    Index::docker().image(of(Image::docker(), "386")).image(of(Image::docker(), "arm/v7")).push(
        &registry,
        "docker/multi",
        "latest",
    );
    for (name, args) in [
        ("oci/multi", ["--override-arch=arm64", "--override-variant=v8"]),
        ("docker/multi", ["--override-arch=arm", "--override-variant=v7"]),
    ] {
        let from = format!("docker://{}/{name}:latest", registry.host());
        let output = tool("skopeo", &[args[0], args[1], "inspect", "--tls-verify=false", &from]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&layer().digest), "{text}");
    }
}

#[test]
fn a_dropped_registry_is_gone() {
    let registry = registry(RegistryOptions::default());
    let addr = registry.addr();
    assert!(std::net::TcpStream::connect(addr).is_ok());
    drop(registry);
    assert!(std::net::TcpStream::connect(addr).is_err());
}
