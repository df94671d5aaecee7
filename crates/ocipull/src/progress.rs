//! What the user sees of a pull: a bar a layer on a terminal, plain lines otherwise, with `-v` a line
//! a request. All on standard error.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ctsys::report::escape;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ocipull::event::{Event, Exchange, LayerInfo, Observer};

use crate::cli::Output;

/// Digits of a digest that are enough for people.
const SHORT_DIGEST_CHARS: usize = 12;
/// Drawing costs: this often a second is smooth enough.
const BAR_HZ: u8 = 10;

/// Shows the events of a pull.
pub(crate) struct Display {
    output: Output,
    /// Where bars are drawn, on a terminal.
    bars: Option<MultiProgress>,
    /// Of the layers on their way, by their place in the image.
    layers: Mutex<BTreeMap<usize, ProgressBar>>,
}

impl Display {
    pub(crate) fn new(output: Output) -> Self {
        let target = || ProgressDrawTarget::stderr_with_hz(BAR_HZ);
        let bars = output == Output::Normal && std::io::stderr().is_terminal();
        let bars = bars.then(|| MultiProgress::with_draw_target(target()));
        Self { output, bars, layers: Mutex::default() }
    }

    /// A line, unless the user wants none. Untrusted text in it is escaped.
    pub(crate) fn say(&self, text: &str) {
        if self.output == Output::Quiet {
            return;
        }
        let line = || {
            let _ = writeln!(std::io::stderr(), "{}", escape(text));
        };
        match &self.bars {
            Some(bars) => bars.suspend(line),
            None => line(),
        }
    }

    /// Takes the bars away, before the last line.
    pub(crate) fn clear(&self) {
        for bar in std::mem::take(&mut *self.layers()).into_values() {
            bar.finish_and_clear();
        }
    }

    fn start(&self, layer: &LayerInfo<'_>) {
        let LayerInfo { index, total, digest, size_bytes } = *layer;
        let digest: String = digest.digest().chars().take(SHORT_DIGEST_CHARS).collect();
        let name = format!("layer {}/{total} {digest}", index + 1);
        let Some(bars) = &self.bars else {
            return self.say(&format!("{name}: {}", size(size_bytes)));
        };
        let mut layers = self.layers();
        // In the order of the image, whichever was first.
        let above = layers.range(..index).count();
        let bar = bars.insert(above, ProgressBar::new(size_bytes).with_prefix(name));
        let template = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        layers.insert(index, bar);
    }

    fn layers(&self) -> MutexGuard<'_, BTreeMap<usize, ProgressBar>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Display {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Exchange(exchange) if self.output == Output::Verbose => {
                self.say(&request_line(exchange));
            }
            Event::Exchange(_) => {}
            Event::Notice(text) => self.say(&format!("ocipull: {text}")),
            Event::Retry { why, attempt, attempts, wait } => {
                let wait = wait.as_secs_f32();
                self.say(&format!("retry {attempt} of {attempts} in {wait:.1} s: {why}"));
            }
            Event::LayerStarted(layer) => self.start(layer),
            Event::LayerBytes { index, bytes } => {
                if let Some(bar) = self.layers().get(index) {
                    bar.inc(*bytes);
                }
            }
            Event::LayerDone(layer) => {
                if let Some(bar) = self.layers().remove(&layer.index) {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

/// `GET URL 200 application/json sha256:... 762 bytes 12 ms`; a dash for what is not there.
fn request_line(exchange: &Exchange) -> String {
    let Exchange { method, url, status, content_type, digest, bytes, elapsed } = exchange;
    let ms = elapsed.as_millis();
    match status {
        Ok(status) => {
            let content_type = content_type.as_deref().unwrap_or("-");
            let digest = digest.as_deref().unwrap_or("-");
            format!("{method} {url} {status} {content_type} {digest} {bytes} bytes {ms} ms")
        }
        Err(why) => format!("{method} {url} failed: {why}, {ms} ms"),
    }
}

/// A size for people, in decimal units as registries show it.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for larger in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (83_518_086, "83.5 MB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_request_is_a_line() {
        let mut exchange = Exchange {
            method: "HEAD",
            url: "https://r/v2/a/manifests/latest".into(),
            status: Ok(200),
            content_type: Some("application/json".into()),
            digest: None,
            bytes: 762,
            elapsed: Duration::from_millis(12),
        };
        assert_eq!(
            request_line(&exchange),
            "HEAD https://r/v2/a/manifests/latest 200 application/json - 762 bytes 12 ms"
        );
        exchange.status = Err("connection refused".into());
        assert_eq!(
            request_line(&exchange),
            "HEAD https://r/v2/a/manifests/latest failed: connection refused, 12 ms"
        );
    }
}
