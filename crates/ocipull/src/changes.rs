//! `ocipull verify`: what differs, for people and for programs.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ctsys::idmap::IdMaps;
use ctsys::record::{ImageRecord, Ownership, RecordError, record_path};
use ctsys::report::{Explain, escape};
use ctsys::{Errno, userns};
use ocipull::apply::{ApplyError, Staging};
use ocipull::compare::{self, Change, CompareError, Difference, Listener};
use ocipull::error::PullError;
use ocipull::event::{Event, Observer};
use ocipull::location::{ImageLocation, LocationError};
use ocipull::open::open;
use ocipull::ownership::{self, OwnershipChoice};
use ocipull::pull::stage;
use serde::Serialize;

use crate::cli::VerifyTask;
use crate::progress::Display;
use crate::{MainError, interruptible};

/// Tries to go on in a user namespace after the runtime has ended: the kernel counts a thread for a
/// moment after it was joined.
const MAX_ENTER_TRIES: usize = 100;
const ENTER_PAUSE: Duration = Duration::from_millis(2);

/// Why a tree cannot be verified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("{0:?} has no image record")]
    NoRecord(PathBuf),
    #[error("the record of {0:?} is another user's")]
    OthersRecord(PathBuf),
    #[error("cannot tell what {dest:?} holds")]
    Record {
        dest: PathBuf,
        #[source]
        source: RecordError,
    },
    #[error("the record of {dest:?} names no image")]
    Reference {
        dest: PathBuf,
        #[source]
        source: LocationError,
    },
    #[error("cannot compare {dest:?} with its image")]
    Compare {
        dest: PathBuf,
        #[source]
        source: CompareError,
    },
}

impl Explain for VerifyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoRecord(_) => Some("only what ocipull unpacked can be verified".into()),
            Self::OthersRecord(_) => Some("run it as the user who pulled the image".into()),
            Self::Record { .. } | Self::Reference { .. } => {
                Some("remove the record and pull with --force".into())
            }
            Self::Compare { source, .. } => source.hint(),
        }
    }
}

/// Compares the tree with its image and shows how it differs; whether it does.
pub(crate) fn verify(task: VerifyTask) -> Result<bool, MainError> {
    let record = own_record(&task.dest)?;
    let location = location(&record)
        .map_err(|source| VerifyError::Reference { dest: task.dest.clone(), source })?;
    ownership::enter(match record.ownership {
        Ownership::Root => OwnershipChoice::Root,
        Ownership::Subuid => OwnershipChoice::Subuid,
        Ownership::Single => OwnershipChoice::Single,
    })?;
    let display = Arc::new(Display::new(task.output));
    let staged = stage_image(&task, location, &record, &display);
    display.clear();
    let staged = staged?;
    if record.ownership == Ownership::Single {
        gain_access();
    }
    let found = show_differences(&task, staged)?;
    let name = record.canonical_reference.split('@').next().unwrap_or_default();
    let image = format!("{name}@{}", record.manifest_digest);
    let dest = task.dest.display();
    display.say(&match found {
        0 => format!("{dest} matches {image}"),
        1 => format!("{dest} differs from {image} at 1 path"),
        many => format!("{dest} differs from {image} at {many} paths"),
    });
    Ok(found > 0)
}

/// The record beside the tree, if it is this user's: where others may write beside DEST (/tmp), one
/// of theirs could have any image pulled and vouch for any tree.
fn own_record(dest: &Path) -> Result<ImageRecord, VerifyError> {
    let (user, _) = userns::effective_ids();
    match std::fs::symlink_metadata(record_path(dest)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(VerifyError::NoRecord(dest.into()));
        }
        Ok(seen) if !seen.is_file() || seen.uid() != user => {
            return Err(VerifyError::OthersRecord(dest.into()));
        }
        // What it is that cannot be looked at is said by who reads it.
        _ => {}
    }
    let record = ImageRecord::read(dest);
    let record = record.map_err(|source| VerifyError::Record { dest: dest.into(), source })?;
    record.ok_or_else(|| VerifyError::NoRecord(dest.into()))
}

/// Where the image is. In a layout its name may be another one's by now.
fn location(record: &ImageRecord) -> Result<ImageLocation, LocationError> {
    let mut location: ImageLocation = record.canonical_reference.parse()?;
    if let ImageLocation::Layout(layout) = &mut location {
        layout.digest = record.manifest_digest.parse().ok();
    }
    Ok(location)
}

/// The image's tree once more, and its root. It goes with this value.
struct Staged {
    staging: Staging,
    root: OwnedFd,
}

fn stage_image(
    task: &VerifyTask,
    location: ImageLocation,
    record: &ImageRecord,
    display: &Arc<Display>,
) -> Result<Staged, MainError> {
    let observer: Arc<dyn Observer> = Arc::new(BarsOnly(Arc::clone(display)));
    let resources = task.resources.open(&location, &observer);
    interruptible(async {
        let source = open(location, &record.reference, &task.registry, observer).await?;
        let mut staging = stage(&source, record, &task.dest, &resources).await?;
        // Not where tasks run: a tree of many directories takes its time.
        let finished = tokio::task::spawn_blocking(move || {
            let root = staging.finish()?;
            Ok(Staged { staging, root })
        });
        let finished = finished.await.map_err(|_| PullError::Unpacker)?;
        finished.map_err(|e: ApplyError| PullError::from(e).into())
    })
}

/// Shows requests and bars, but no lines about layers: those are not what was asked for.
struct BarsOnly(Arc<Display>);

impl Observer for BarsOnly {
    fn observe(&self, event: &Event<'_>) {
        if io::stderr().is_terminal()
            || matches!(event, Event::Exchange(_) | Event::Unreached(_) | Event::Notice(_))
        {
            self.0.observe(event);
        }
    }
}

/// In a tree where all belongs to one user, modes of the image may keep that user out, and they are
/// not to be changed. As root of a user namespace that has this one id the user may look all the
/// same. Where that is not to be had, what is open is compared and the rest is an error.
///
/// It comes after the tree was unpacked, as that goes another way in a user namespace: file
/// capabilities can be kept there, and access control lists lose the ids that it does not have.
fn gain_access() {
    let (uid, gid) = userns::effective_ids();
    if uid == 0 {
        return;
    }
    for _ in 0..MAX_ENTER_TRIES {
        match userns::enter(&IdMaps::single(uid, gid)) {
            Err(e) if e.errno() == Errno::EBUSY => std::thread::sleep(ENTER_PAUSE),
            _ => return,
        }
    }
}

fn show_differences(task: &VerifyTask, staged: Staged) -> Result<u64, MainError> {
    let (dest, json, output) = (task.dest.clone(), task.json, task.output);
    let is_over = Arc::new(AtomicBool::new(false));
    let end = EndWithDrop(Arc::clone(&is_over));
    interruptible(async move {
        let _end = end;
        let comparing = tokio::task::spawn_blocking(move || {
            let Staged { staging, root } = staged;
            let tree = staging.dest_dir().map_err(PullError::from)?;
            let out = BufWriter::new(io::stdout());
            let mut shown = Shown { json, quiet: output.quiet, is_over, found: 0, out };
            compare::compare(root, tree, &mut shown)
                .and_then(|()| shown.out.flush().map_err(CompareError::Listener))
                .map_err(|source| VerifyError::Compare { dest, source })?;
            Ok(shown.found)
        });
        match comparing.await {
            Ok(compared) => compared,
            Err(_) => Err(PullError::Unpacker.into()),
        }
    })
}

/// Ends the comparison when the waiting for it ends, as by a signal.
struct EndWithDrop(Arc<AtomicBool>);

impl Drop for EndWithDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes differences to standard output as they come.
struct Shown {
    json: bool,
    quiet: bool,
    is_over: Arc<AtomicBool>,
    found: u64,
    out: BufWriter<Stdout>,
}

impl Listener for Shown {
    fn found(&mut self, difference: &Difference) -> io::Result<()> {
        self.found += 1;
        match (self.quiet, self.json) {
            (true, _) => Ok(()),
            (_, true) => writeln!(self.out, "{}", json_line(difference)?),
            (_, false) => writeln!(self.out, "{}", line(difference)),
        }
    }

    fn is_over(&mut self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// `M etc/passwd (mode, content)`
fn line(difference: &Difference) -> String {
    let (letter, aspects) = match &difference.change {
        Change::Added => ('A', String::new()),
        Change::Removed => ('D', String::new()),
        Change::Changed(aspects) => {
            let names: Vec<String> = aspects.iter().map(ToString::to_string).collect();
            ('M', format!(" ({})", names.join(", ")))
        }
    };
    let path = match difference.path.as_slice() {
        b"" => b".",
        path => path,
    };
    let slash = if difference.is_dir { "/" } else { "" };
    format!("{letter} {}{slash}{aspects}", escaped(path))
}

/// A name for a terminal: control characters and bytes that are no text as escapes, a backslash
/// doubled.
fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(&escape(&chunk.valid().replace('\\', "\\\\")));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// A difference for programs; the form is described in `ocipull verify --help`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonLine<'a> {
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    directory: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aspects: Vec<String>,
}

fn json_line(difference: &Difference) -> io::Result<String> {
    let path = std::str::from_utf8(&difference.path).ok();
    let line = JsonLine {
        change: match difference.change {
            Change::Added => "added",
            Change::Changed(_) => "changed",
            Change::Removed => "removed",
        },
        path,
        path_base64: path.is_none().then(|| STANDARD.encode(&difference.path)),
        directory: difference.is_dir,
        aspects: match &difference.change {
            Change::Changed(aspects) => aspects.iter().map(ToString::to_string).collect(),
            Change::Added | Change::Removed => Vec::new(),
        },
    };
    Ok(serde_json::to_string(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocipull::compare::Aspect;

    fn difference(path: &[u8], is_dir: bool, change: Change) -> Difference {
        Difference { path: path.to_vec(), is_dir, change }
    }

    #[test]
    fn a_line_for_people() {
        let changed = || Change::Changed(vec![Aspect::Mode, Aspect::Content]);
        for (path, is_dir, change, want) in [
            (&b"etc/x"[..], false, Change::Added, "A etc/x"),
            (b"etc", true, Change::Removed, "D etc/"),
            (b"etc/passwd", false, changed(), "M etc/passwd (mode, content)"),
            (b"", true, changed(), "M ./ (mode, content)"),
            (b"a\nA b\x1b[2J", false, Change::Added, "A a\\nA b\\u{1b}[2J"),
            ("\\n é \u{202e}".as_bytes(), false, Change::Added, "A \\\\n é \\u{202e}"),
            (b"a\xff", false, Change::Added, "A a\\xff"),
        ] {
            assert_eq!(line(&difference(path, is_dir, change)), want);
        }
    }

    #[test]
    fn a_line_for_programs() {
        let changed = Change::Changed(vec![Aspect::Time]);
        for (path, is_dir, change, want) in [
            (
                &b"a\nb"[..],
                false,
                Change::Added,
                r#"{"change":"added","path":"a\nb","directory":false}"#,
            ),
            (
                b"",
                true,
                changed,
                r#"{"change":"changed","path":"","directory":true,"aspects":["mtime"]}"#,
            ),
            (
                b"\xff",
                false,
                Change::Removed,
                r#"{"change":"removed","pathBase64":"/w==","directory":false}"#,
            ),
        ] {
            assert_eq!(json_line(&difference(path, is_dir, change)).unwrap(), want);
        }
    }
}
