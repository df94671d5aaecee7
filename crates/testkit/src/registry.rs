//! A real OCI distribution registry in this process, for tests that are not async.
//!
//! ```text
//! server (sockets, TLS) -> fault (before) -> auth -> routes | upload -> fault (after) -> connection
//!                     \-> log                          \-> store
//! ```
//!
//! It speaks HTTP/1.1 over real sockets on a thread of its own and stops when the handle is dropped.
//! Content is put in by [`Registry::put_blob`] and friends, by [`crate::image`]'s `push`, from an OCI
//! layout, or by any tool that pushes.

mod answer;
mod auth;
mod connection;
mod fault;
mod layout;
mod log;
mod routes;
mod server;
mod store;
mod tls;
mod upload;

pub use auth::{Auth, Bearer, TokenRequest};
pub use fault::{Fault, Rule};
pub use log::{Listener, Request};

use bytes::Bytes;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use store::Store;
use tokio::sync::oneshot;

/// What kind of registry to start. The default: plain HTTP on 127.0.0.1, open to everybody.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Where to listen; port 0 lets the kernel choose.
    pub addr: SocketAddr,
    /// TLS with a certificate from an authority made for this registry ([`Registry::ca_file`]).
    pub tls: bool,
    /// With TLS, whether clients have to show a certificate of the same authority.
    pub client_certs: bool,
    /// What it demands.
    pub auth: Auth,
    /// Blobs are answered by a 307 to a second listener, which refuses requests that bring an
    /// `Authorization`.
    pub redirect_blobs: bool,
    /// The `/token` endpoint is on a listener of its own, as Docker Hub's is on another host.
    pub separate_tokens: bool,
    /// Most tags in one page of a list.
    pub tags_page: usize,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: false,
            client_certs: false,
            auth: Auth::None,
            redirect_blobs: false,
            separate_tokens: false,
            tags_page: usize::MAX,
        }
    }
}

impl RegistryOptions {
    /// The default with TLS.
    pub fn tls() -> Self {
        Self { tls: true, ..Self::default() }
    }

    /// The default with authentication.
    pub fn auth(auth: Auth) -> Self {
        Self { auth, ..Self::default() }
    }

    /// The default with blobs on another host.
    pub fn redirecting() -> Self {
        Self { redirect_blobs: true, ..Self::default() }
    }
}

/// What the handle and the server thread share.
struct Shared {
    options: RegistryOptions,
    addr: SocketAddr,
    blob_addr: Option<SocketAddr>,
    token_addr: Option<SocketAddr>,
    tls: Option<tls::Tls>,
    store: Mutex<Store>,
    rules: Mutex<Vec<Rule>>,
    tokens: Mutex<auth::Tokens>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
}

impl Shared {
    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn base(&self) -> String {
        format!("{}://{}", self.scheme(), self.addr)
    }

    fn blob_store_base(&self) -> Option<String> {
        self.blob_addr.map(|addr| format!("{}://{addr}", self.scheme()))
    }

    /// Where `/token` is.
    fn token_base(&self) -> String {
        format!("{}://{}", self.scheme(), self.token_addr.unwrap_or(self.addr))
    }

    /// Notes a request; its place is for [`Shared::set_status`].
    fn log(&self, request: Request) -> usize {
        let mut requests = self.requests.lock().unwrap();
        requests.push(request);
        requests.len() - 1
    }

    fn set_status(&self, at: usize, status: u16) {
        // The list may have been cleared in between.
        if let Some(request) = self.requests.lock().unwrap().get_mut(at) {
            request.status = status;
        }
    }
}

/// A registry that runs; it ends when this is dropped.
pub struct Registry {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    ca_file: Option<tempfile::NamedTempFile>,
}

impl Registry {
    /// Starts a registry; it answers from the moment this returns.
    pub fn start(options: RegistryOptions) -> Self {
        let bind = |addr: SocketAddr| {
            let listener = std::net::TcpListener::bind(addr)
                .unwrap_or_else(|e| panic!("cannot listen on {addr}: {e}"));
            listener.set_nonblocking(true).unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let (addr, listener) = bind(options.addr);
        let other = || bind(SocketAddr::new(options.addr.ip(), 0));
        let blob = options.redirect_blobs.then(other);
        let token = options.separate_tokens.then(other);
        let tls = options.tls.then(|| tls::make(options.client_certs));
        let ca_file = tls.as_ref().map(|tls| readable_file(&tls.authority.ca_pem));
        let shared = Arc::new(Shared {
            options,
            addr,
            blob_addr: blob.as_ref().map(|(addr, _)| *addr),
            token_addr: token.as_ref().map(|(addr, _)| *addr),
            tls,
            store: Mutex::default(),
            rules: Mutex::default(),
            tokens: Mutex::default(),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let mut listeners = vec![(listener, Listener::Registry)];
        listeners.extend(blob.map(|(_, listener)| (listener, Listener::BlobStore)));
        listeners.extend(token.map(|(_, listener)| (listener, Listener::Tokens)));
        let (stop, stopped) = oneshot::channel();
        let thread = run(listeners, Arc::clone(&shared), stopped);
        Self { shared, stop: Some(stop), thread: Some(thread), ca_file }
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// `127.0.0.1:PORT`, as a reference has it.
    pub fn host(&self) -> String {
        self.shared.addr.to_string()
    }

    /// `http://127.0.0.1:PORT` or `https://…`.
    pub fn base_url(&self) -> String {
        self.shared.base()
    }

    /// `127.0.0.1:PORT` of the second listener; panics where blobs are not redirected.
    pub fn blob_host(&self) -> String {
        self.shared.blob_addr.expect("this registry does not redirect blobs").to_string()
    }

    /// `127.0.0.1:PORT` of the host that gives out tokens.
    pub fn token_host(&self) -> String {
        self.shared.token_addr.unwrap_or(self.shared.addr).to_string()
    }

    /// The PEM file of the authority that signed the certificate, for `--ca-cert`; readable by
    /// everybody. Panics where there is no TLS.
    pub fn ca_file(&self) -> &Path {
        self.ca_file.as_ref().expect("this registry has no TLS").path()
    }

    /// The authority that signed the certificate. Panics where there is no TLS.
    pub fn authority(&self) -> &crate::authority::Authority {
        &self.shared.tls.as_ref().expect("this registry has no TLS").authority
    }

    /// Stores a blob and returns its digest. Repositories share all blobs, but a name is known only
    /// once it has a manifest.
    pub fn put_blob(&self, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = crate::digest(&bytes);
        self.put_blob_as(&digest, bytes);
        digest
    }

    /// Stores bytes under any digest, also a wrong one.
    pub fn put_blob_as(&self, digest: &str, bytes: impl Into<Bytes>) {
        self.shared.store.lock().unwrap().blobs.insert(digest.to_owned(), bytes.into());
    }

    /// Stores a manifest by its digest and, when `reference` is a tag, by that; a digest as
    /// `reference` need not be the right one. Returns the right digest.
    pub fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        let mut store = self.shared.store.lock().unwrap();
        store.put_manifest(repository, reference, media_type, bytes.into())
    }

    /// The stored bytes of a blob.
    pub fn blob(&self, digest: &str) -> Option<Bytes> {
        self.shared.store.lock().unwrap().blobs.get(digest).cloned()
    }

    /// The digest, media type and bytes of a manifest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, String, Bytes)> {
        let store = self.shared.store.lock().unwrap();
        store.manifest(repository, reference).map(|(digest, m)| (digest, m.media_type, m.bytes))
    }

    /// Forgets a blob, as a registry that lost one.
    pub fn remove_blob(&self, digest: &str) {
        self.shared.store.lock().unwrap().blobs.remove(digest);
    }

    /// Takes an image out of an OCI layout: the one that `index.json` gives the tag to, or the only
    /// one there. Returns its digest.
    pub fn load_oci_layout(&self, dir: &Path, repository: &str, tag: &str) -> String {
        layout::load(self, dir, repository, tag)
    }

    /// Adds a rule; all rules that match a request act on it, in the order they were added.
    pub fn inject(&self, rule: Rule) {
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// Takes all rules away.
    pub fn clear_faults(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Every request as `METHOD path?query status`.
    pub fn walk(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }

    /// Forgets the requests so far; for use between two runs, when none is on its way.
    pub fn clear_requests(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// Everything that `/token` was asked.
    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.shared.tokens.lock().unwrap().asked.clone()
    }

    /// Makes all tokens given so far invalid, as if their time had passed.
    pub fn expire_tokens(&self) {
        self.shared.tokens.lock().unwrap().revoke();
    }

    /// How many connections were accepted, on all listeners.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server's thread: ends all connections when `stopped` resolves.
fn run(
    listeners: Vec<(std::net::TcpListener, Listener)>,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) -> JoinHandle<()> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (listener, which) in listeners {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::spawn(server::serve(listener, which, Arc::clone(&shared)));
            }
            let _ = stopped.await;
        });
    };
    std::thread::Builder::new().name("testkit-registry".into()).spawn(work).unwrap()
}

/// A temporary file that an unprivileged user can read too.
fn readable_file(text: &str) -> tempfile::NamedTempFile {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = tempfile::Builder::new()
        .prefix("testkit-ca-")
        .suffix(".pem")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile()
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    // The umask may have taken the permission away.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
    file
}
