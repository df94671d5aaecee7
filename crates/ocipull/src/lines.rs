//! What `--progress json` writes: an object a line on standard error. `ocipull --help` describes them.

use std::time::Duration;

use ctsys::report::{Explain, chain};
use ocipull::event::{Exchange, LayerInfo, Timing};
use serde::Serialize;

/// One of them.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum Line<'a> {
    Message {
        text: &'a str,
    },
    Retry {
        why: &'a str,
        attempt: u32,
        attempts: u32,
        wait_seconds: f64,
    },
    Request(RequestLine<'a>),
    LayerStarted(LayerLine<'a>),
    /// So many bytes of it so far.
    LayerProgress {
        layer: usize,
        bytes: u64,
    },
    LayerDone(LayerLine<'a>),
    Done {
        text: &'a str,
        digest: &'a str,
        dest: &'a str,
    },
    Failed {
        message: String,
        hint: Option<String>,
        exit_code: u8,
    },
}

/// A layer and its size.
#[derive(Debug, Serialize)]
pub(crate) struct LayerLine<'a> {
    /// Its place, from 1, as people count.
    layer: usize,
    layers: usize,
    digest: &'a str,
    bytes: u64,
}

/// A request; what is not there is left out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestLine<'a> {
    method: &'a str,
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_seconds: Option<f64>,
    total_seconds: f64,
    bytes_per_second: u64,
}

impl Line<'_> {
    pub(crate) fn failed(error: &dyn Explain) -> Line<'static> {
        let (message, hint, exit_code) = (chain(error), error.hint(), error.exit_code());
        Line::Failed { message, hint, exit_code }
    }

    /// The line, with its end.
    pub(crate) fn text(&self) -> String {
        // Strings, numbers and keys that are strings: nothing that JSON lacks.
        serde_json::to_string(self).map(|text| text + "\n").unwrap_or_default()
    }
}

impl<'a> From<&LayerInfo<'a>> for LayerLine<'a> {
    fn from(layer: &LayerInfo<'a>) -> Self {
        let LayerInfo { index, total, digest, size_bytes } = *layer;
        Self { layer: index + 1, layers: total, digest: digest.as_ref(), bytes: size_bytes }
    }
}

impl<'a> From<&'a Exchange> for RequestLine<'a> {
    fn from(exchange: &'a Exchange) -> Self {
        let Timing { name_lookup, connect, tls, first_byte } = exchange.timing;
        let seconds = |step: Option<Duration>| step.map(|step| step.as_secs_f64());
        Self {
            method: exchange.method,
            url: &exchange.url,
            status: exchange.status.as_ref().ok().copied(),
            error: exchange.status.as_ref().err().map(String::as_str),
            content_type: exchange.content_type.as_deref(),
            digest: exchange.digest.as_deref(),
            bytes: exchange.bytes,
            lookup_seconds: seconds(name_lookup),
            connect_seconds: seconds(connect),
            tls_seconds: seconds(tls),
            first_byte_seconds: seconds(first_byte),
            total_seconds: exchange.elapsed.as_secs_f64(),
            bytes_per_second: rate(exchange),
        }
    }
}

/// Bytes a second over all of the time, as curl's `speed_download`. A HEAD has no body.
pub(crate) fn rate(exchange: &Exchange) -> u64 {
    let body_bytes = if exchange.method == "HEAD" { 0 } else { exchange.bytes };
    let seconds = exchange.elapsed.as_secs_f64();
    if seconds > 0.0 { (body_bytes as f64 / seconds) as u64 } else { 0 }
}
