//! What the user sees of a pull: a bar a layer on a terminal, plain lines otherwise, with `-v` and
//! `--timing` a line a request; with `--progress json` all of it for a program. All on standard error.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ctsys::report::escape;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ocipull::event::{Event, Exchange, LayerInfo, Observer, Timing};

use crate::lines::{Line, rate};
use crate::output::{Form, Output};

/// Digits of a digest that are enough for people.
const SHORT_DIGEST_CHARS: usize = 12;
/// Drawing costs: this often a second is smooth enough.
const BAR_HZ: u8 = 10;
/// A program is told of a layer's bytes so often at most: it draws bars too.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Shows the events of a pull.
pub(crate) struct Display {
    output: Output,
    /// Where bars are drawn, on a terminal.
    bars: Option<MultiProgress>,
    /// Of the layers on their way, by their place in the image.
    layers: Mutex<BTreeMap<usize, ProgressBar>>,
    /// For a program: bytes of the layers on their way, and when it was told of them.
    counted: Mutex<BTreeMap<usize, (u64, Option<Instant>)>>,
}

impl Display {
    pub(crate) fn new(output: Output) -> Self {
        let target = || ProgressDrawTarget::stderr_with_hz(BAR_HZ);
        let bars = output == Output::USUAL && std::io::stderr().is_terminal();
        let bars = bars.then(|| MultiProgress::with_draw_target(target()));
        Self { output, bars, layers: Mutex::default(), counted: Mutex::default() }
    }

    /// A line, unless the user wants none. Untrusted text in it is escaped.
    pub(crate) fn say(&self, text: &str) {
        if self.output.quiet {
            return;
        }
        if self.is_json() {
            return write(&Line::Message { text });
        }
        let line = || {
            let _ = writeln!(std::io::stderr(), "{}", escape(text));
        };
        match &self.bars {
            Some(bars) => bars.suspend(line),
            None => line(),
        }
    }

    /// The last line: `text` says what became of `digest` at `dest`.
    pub(crate) fn done(&self, text: &str, digest: &str, dest: &str) {
        match self.is_json() {
            true => write(&Line::Done { text, digest, dest }),
            false => self.say(text),
        }
    }

    fn is_json(&self) -> bool {
        self.output.form == Form::Json
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
        let template = "{prefix} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        layers.insert(index, bar);
    }

    fn observe_for_program(&self, event: &Event<'_>) {
        match event {
            Event::Exchange(exchange) => write(&Line::Request((*exchange).into())),
            Event::Unreached(exchange) => {
                if self.output.timing {
                    write(&Line::Request((*exchange).into()));
                }
            }
            Event::Notice(text) => write(&Line::Message { text }),
            Event::Retry { why, attempt, attempts, wait } => {
                let (attempt, attempts) = (*attempt, *attempts);
                write(&Line::Retry { why, attempt, attempts, wait_seconds: wait.as_secs_f64() });
            }
            Event::LayerStarted(layer) => write(&Line::LayerStarted(layer.into())),
            Event::LayerBytes { index, bytes } => self.count(*index, *bytes),
            Event::LayerDone(layer) => {
                self.counted().remove(&layer.index);
                write(&Line::LayerDone(layer.into()));
            }
        }
    }

    fn count(&self, index: usize, more_bytes: u64) {
        let mut counted = self.counted();
        let (bytes, told) = counted.entry(index).or_default();
        *bytes = bytes.saturating_add(more_bytes);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            // With the lock held, so that the numbers grow.
            write(&Line::LayerProgress { layer: index + 1, bytes: *bytes });
        }
    }

    fn counted(&self) -> MutexGuard<'_, BTreeMap<usize, (u64, Option<Instant>)>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layers(&self) -> MutexGuard<'_, BTreeMap<usize, ProgressBar>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Display {
    fn observe(&self, event: &Event<'_>) {
        if self.is_json() {
            return self.observe_for_program(event);
        }
        match event {
            Event::Exchange(exchange) => {
                if self.output.requests {
                    self.say(&request_line(exchange));
                }
                if self.output.timing {
                    self.say(&timing_line(exchange));
                }
            }
            Event::Unreached(exchange) => {
                if self.output.timing {
                    self.say(&timing_line(exchange));
                }
            }
            Event::Notice(text) => self.say(&format!("ocipull: note: {text}")),
            Event::Retry { why, attempt, attempts, wait } => {
                let wait = wait.as_secs_f32();
                self.say(&format!(
                    "ocipull: note: retry {attempt} of {attempts} in {wait:.1} s: {why}"
                ));
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
    let Exchange { method, url, status, content_type, digest, bytes, elapsed, .. } = exchange;
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

/// `timing: GET URL 200: lookup 0.4 ms, connect 1.2 ms, TLS 9.0 ms, first byte 11.3 ms, total 12.0 ms,
/// 762 bytes, 63.5 kB/s`; a dash for a step that was not needed.
fn timing_line(exchange: &Exchange) -> String {
    let Exchange { method, url, status, bytes, elapsed, timing, .. } = exchange;
    let Timing { name_lookup, connect, tls, first_byte } = *timing;
    let status = status.as_ref().map_or("failed".into(), u16::to_string);
    let ms = |step: Option<Duration>| match step {
        Some(step) => format!("{:.1} ms", step.as_secs_f64() * 1000.0),
        None => "-".into(),
    };
    format!(
        "timing: {method} {url} {status}: lookup {}, connect {}, TLS {}, first byte {}, total {}, \
         {bytes} bytes, {}/s",
        ms(name_lookup),
        ms(connect),
        ms(tls),
        ms(first_byte),
        ms(Some(*elapsed)),
        size(rate(exchange))
    )
}

/// A line for a program. Whole, as several threads write.
fn write(line: &Line<'_>) {
    let _ = std::io::stderr().write_all(line.text().as_bytes());
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
            timing: Timing::default(),
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

    #[test]
    fn the_steps_of_a_request_are_a_line() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let mut exchange = Exchange {
            method: "GET",
            url: "https://r/v2/a/blobs/b".into(),
            status: Ok(200),
            content_type: None,
            digest: None,
            bytes: 4_000_000,
            elapsed: Duration::from_secs(2),
            timing: Timing { name_lookup: ms(1), connect: ms(2), tls: ms(12), first_byte: ms(20) },
        };
        assert_eq!(
            timing_line(&exchange),
            "timing: GET https://r/v2/a/blobs/b 200: lookup 1.0 ms, connect 2.0 ms, TLS 12.0 ms, \
             first byte 20.0 ms, total 2000.0 ms, 4000000 bytes, 2.0 MB/s"
        );
        exchange.method = "HEAD";
        exchange.timing = Timing { first_byte: ms(20), ..Timing::default() };
        let line = timing_line(&exchange);
        assert!(line.contains("lookup -, connect -, TLS -, first byte 20.0 ms"), "{line}");
        assert!(line.ends_with("4000000 bytes, 0 bytes/s"), "{line}");
    }
}
