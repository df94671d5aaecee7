//! What a pull tells while it runs. The library prints nothing: who wants to see, observes.

use std::time::Duration;

use oci_spec::image::Digest;

/// Receives events, from any thread, in the order in which they happen.
pub trait Observer: Send + Sync {
    /// Takes one. Should not block for long: the download waits meanwhile.
    fn observe(&self, event: &Event<'_>);
}

/// For who does not want to see anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&self, _event: &Event<'_>) {}
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request and its answer are over.
    Exchange(&'a Exchange),
    /// A request that was never sent, as no connection was made. Not always a failure: whether a
    /// registry on this machine speaks TLS is found out so.
    Unreached(&'a Exchange),
    /// Something that the user should know and that is no failure. Not escaped for a terminal.
    Notice(&'a str),
    /// A request failed and is sent again after a wait.
    Retry {
        /// As a line. Not escaped for a terminal.
        why: &'a str,
        /// Which retry it will be, from 1.
        attempt: u32,
        /// How many there are at most.
        attempts: u32,
        /// How long it takes until then.
        wait: Duration,
    },
    /// A layer begins.
    LayerStarted(LayerInfo<'a>),
    /// So many more bytes of the layer have been received and handed on.
    LayerBytes {
        /// The layer's place, from 0.
        index: usize,
        /// How many more.
        bytes: u64,
    },
    /// A layer is verified and applied.
    LayerDone(LayerInfo<'a>),
}

/// Which layer an event is about.
#[derive(Debug, Clone, Copy)]
pub struct LayerInfo<'a> {
    /// Its place, from 0, lowest first.
    pub index: usize,
    /// How many layers the image has.
    pub total: usize,
    /// Of the blob.
    pub digest: &'a Digest,
    /// Of the blob, in bytes.
    pub size_bytes: u64,
}

/// One HTTP request and what became of it. Holds no secret: the URL is without user, password and
/// the queries of others (signed URLs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// `HEAD`, `GET`.
    pub method: &'static str,
    /// Without secrets.
    pub url: String,
    /// The answer's status, or why there is none.
    pub status: Result<u16, String>,
    /// The answer's `Content-Type`. As the server sent it: escape it for a terminal.
    pub content_type: Option<String>,
    /// The answer's `Docker-Content-Digest`, else the digest that the body was checked against. As
    /// the server sent it.
    pub digest: Option<String>,
    /// The body's bytes that were read; those that a HEAD promises.
    pub bytes: u64,
    /// From sending to the body's end.
    pub elapsed: Duration,
    /// Its steps.
    pub timing: Timing,
}

/// When the steps of a request were done, each counted since the request began, as curl counts its
/// `time_...`. Of a connection's steps there is none where one that was open already could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// The host's name, or the proxy's, had an address. None for an address.
    pub name_lookup: Option<Duration>,
    /// TCP was connected; through a proxy, to the host behind it. Where the program has a rustls
    /// `CryptoProvider` of its own installed, that TLS was as well.
    pub connect: Option<Duration>,
    /// The TLS handshake was over.
    pub tls: Option<Duration>,
    /// The answer's head was there.
    pub first_byte: Option<Duration>,
}
