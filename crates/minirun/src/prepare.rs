//! From what was asked for to a [`Launch`]: finds the root filesystem, its record and its bundle's
//! config.json, and puts configuration and flags together.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ctsys::idmap::IdMaps;
use ctsys::record::ImageRecord;
use ctsys::state::StateRoot;
use oci_spec::runtime::Spec;

use crate::bundle::{self, Existing};
use crate::caller::Caller;
use crate::config::ids::IdChoice;
use crate::config::image::Image;
use crate::config::network::NetworkOptions;
use crate::config::overrides::{self, Overrides};
use crate::config::{self, Inputs, annotations, security};
use crate::launch::Launch;
use crate::naming;
use crate::network::Shared;
use crate::user::{Accounts, UserSpec};

mod check;
mod error;
mod ids;
mod network;
mod profile;
pub use error::{EXIT_OWN_FAILURE, Error, Result};

/// The root filesystem's name in a bundle.
const ROOTFS: &str = "rootfs";

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The current directory as a bundle.
    Here,
    /// A bundle.
    Bundle(PathBuf),
    /// A root filesystem, without a bundle.
    Rootfs(PathBuf),
}

/// What was asked for, as it is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// What to run.
    pub target: Target,
    /// What to call it.
    pub name: Option<String>,
    /// Stay in the background once the command runs.
    pub detach: bool,
    /// Leave nothing behind, also in the background.
    pub remove: bool,
    /// The bound of the log of a container in the background, in bytes.
    pub log_bytes: u64,
    /// Only say what would run: nothing is written.
    pub dry_run: bool,
    /// Which ids the container is to have.
    pub ids: IdChoice,
    /// Give the command a terminal; without a word, when there is one to use.
    pub terminal: Option<bool>,
    /// Its network, and the namespaces that it shares.
    pub network: NetworkOptions,
    /// What the caller's environment says in place of `network.net`.
    pub default_net: Option<String>,
    /// What this run changes.
    pub overrides: Overrides,
}

/// Everything decided.
#[derive(Debug)]
pub struct Prepared {
    /// What the runtime is to do.
    pub launch: Launch,
    /// What the user should know though nothing failed, a line each.
    pub notes: Vec<String>,
}

/// Decides everything, and writes the bundle's config.json when that is minirun's.
pub fn prepare(options: &RunOptions, caller: &Caller) -> Result<Prepared> {
    check::options(options)?;
    let options = &*with_kept_user(options, caller);
    match &options.target {
        Target::Rootfs(path) => prepare_rootfs(options, caller, path),
        Target::Bundle(dir) => prepare_bundle(options, caller, dir),
        Target::Here => prepare_bundle(options, caller, Path::new(".")),
    }
}

/// The parts of a launch that are known before its configuration.
struct Place {
    /// Absolute; `None` without a bundle.
    bundle: Option<PathBuf>,
    /// Absolute, links resolved.
    rootfs: PathBuf,
    /// What the configuration says: relative to the bundle or absolute.
    root_path: PathBuf,
    image: Option<Image>,
    accounts: Accounts,
    /// What the user should know about it.
    note: Option<String>,
}

impl Place {
    fn find(rootfs: &Path, root_path: Option<&Path>, bundle: Option<&Path>) -> Result<Self> {
        let found = directory(rootfs)?;
        let found = found.ok_or_else(|| Error::no_rootfs(rootfs, bundle))?;
        // The record stands beside the name that ocipull was given, which may be a link's.
        let named = if rootfs.file_name().is_some() { rootfs } else { &found };
        for path in std::iter::once(found.as_path()).chain(bundle) {
            path.to_str().ok_or_else(|| Error::NotUtf8(path.into()))?;
        }
        let record = ImageRecord::read(named).map_err(Error::Record)?;
        let image = record.as_ref().map(Image::from_record).transpose().map_err(Error::Image)?;
        Ok(Self {
            bundle: bundle.map(Path::to_path_buf),
            root_path: root_path.unwrap_or(&found).into(),
            accounts: Accounts::read(&found),
            rootfs: found,
            image,
            note: None,
        })
    }

    /// The configuration without flags, but for `user`: one that the image lacks must not stand in
    /// the way of one that it has.
    fn generate(
        &self,
        caller: &Caller,
        maps: &IdMaps,
        user: Option<&UserSpec>,
        name: &str,
        terminal: bool,
    ) -> Result<Spec> {
        let of_image = || self.image.as_ref().map_or("", |image| &image.user).parse();
        let user = user.cloned().map_or_else(of_image, Ok).map_err(Error::User)?;
        let inputs = Inputs {
            image: self.image.as_ref(),
            caller,
            maps,
            accounts: &self.accounts,
            user: &user,
            root_path: &self.root_path,
            // The kernel takes 64 bytes; a name may be longer.
            hostname: name.get(..63).unwrap_or(name),
            terminal,
        };
        config::generate(&inputs).map_err(Error::User)
    }
}

fn prepare_rootfs(options: &RunOptions, caller: &Caller, path: &Path) -> Result<Prepared> {
    let mut place = Place::find(path, None, None)?;
    let name = options.name.clone().unwrap_or_else(naming::drawn);
    let maps = match ids::asked_for(&options.ids, &mut place, caller)? {
        Some(maps) => maps,
        None => ids::usual(&mut place, caller)?,
    };
    let (shared, maps) = network::shared(options, maps)?;
    let terminal = wants_terminal(options, caller, true);
    let user = options.overrides.user.as_ref();
    let spec = place.generate(caller, &maps, user, &name, terminal)?;
    let draft = Draft { place, shared, spec, maps, name, terminal, is_generated: true };
    finish(options, draft)
}

fn prepare_bundle(options: &RunOptions, caller: &Caller, dir: &Path) -> Result<Prepared> {
    let dir = directory(dir)?.ok_or_else(|| Error::no_bundle(dir))?;
    let own_name = naming::from_directory(&dir).unwrap_or_else(naming::drawn);
    let name = options.name.clone().unwrap_or_else(|| own_name.clone());
    let former = match bundle::read(&dir).map_err(Error::Bundle)? {
        Existing::Own(spec) => return prepare_own(options, caller, &dir, spec, name),
        Existing::Generated(spec) => Some(spec),
        Existing::None => None,
    };
    let mut place = Place::find(&dir.join(ROOTFS), Some(Path::new(ROOTFS)), Some(&dir))?;
    let asked_for = ids::asked_for(&options.ids, &mut place, caller)?;
    let usual = ids::usual(&mut place, caller);
    // Whether there is a terminal says nothing about the bundle: what stands there stays, so that
    // a run in a pipe does not change the file.
    let said = former.as_ref().and_then(|s| s.process().as_ref()?.terminal());
    let file = match &usual {
        Ok(maps) if !options.dry_run => {
            file_config(&place, caller, maps, &own_name, said.unwrap_or(caller.on_terminal))?
        }
        _ => None,
    };
    let maps = asked_for.map_or(usual, Ok)?;
    let (shared, maps) = network::shared(options, maps)?;
    let terminal = wants_terminal(options, caller, true);
    let user = options.overrides.user.as_ref();
    let spec = place.generate(caller, &maps, user, &name, terminal)?;
    let draft = Draft { place, shared, spec, maps, name, terminal, is_generated: true };
    let mut prepared = finish(options, draft)?;
    if let Some(file) = file.filter(|file| former.as_ref() != Some(file))
        && !bundle::write(&dir, &file).map_err(Error::Bundle)?
    {
        let note = format!("{dir:?} may not be written, so it gets no {}", bundle::CONFIG_FILE);
        prepared.notes.push(note);
    }
    Ok(prepared)
}

/// What is written to the bundle: the configuration without any flag, marked as generated. `None`
/// when only this run's flags make it one that can be run, as for an image without a command.
fn file_config(
    place: &Place,
    caller: &Caller,
    maps: &IdMaps,
    name: &str,
    terminal: bool,
) -> Result<Option<Spec>> {
    // What is wrong with it is told of the configuration that is run, if that has it too.
    let Ok(mut file) = place.generate(caller, maps, None, name, terminal) else { return Ok(None) };
    if check::spec(&file, maps).is_err() {
        return Ok(None);
    }
    if caller.uid != 0 {
        drop_additional_groups(&mut file);
    }
    security::write_out(&mut file);
    bundle::seal(&mut file).map_err(Error::Json)?;
    Ok(Some(file))
}

/// runc refuses any supplementary group to a caller without privileges, also where a range of ids
/// is mapped. The file is for every runtime, so it goes without; minirun's own run has them.
fn drop_additional_groups(file: &mut Spec) {
    if let Some(process) = file.process_mut() {
        process.user_mut().set_additional_gids(None);
    }
}

/// A config.json that somebody wrote or edited: used as it is.
fn prepare_own(
    options: &RunOptions,
    caller: &Caller,
    dir: &Path,
    mut spec: Spec,
    name: String,
) -> Result<Prepared> {
    let root = spec.root().as_ref().map(|root| root.path().clone());
    let root = root.filter(|path| !path.as_os_str().is_empty());
    let root = root.ok_or_else(|| Error::NoRoot { path: dir.join(bundle::CONFIG_FILE) })?;
    let mut place = Place::find(&dir.join(&root), Some(&root), Some(dir))?;
    // What the image would have brought is not in use.
    place.image.iter_mut().for_each(|image| image.notes.clear());
    let maps = match ids::asked_for(&options.ids, &mut place, caller)? {
        Some(maps) => {
            config::set_maps(&mut spec, &maps);
            maps
        }
        None => ids::of_config(&spec, caller)?
            .ok_or_else(|| Error::ForeignMaps { path: dir.join(bundle::CONFIG_FILE) })?,
    };
    let (shared, maps) = network::shared(options, maps)?;
    let asks = spec.process().as_ref().and_then(|p| p.terminal()).unwrap_or(false);
    let terminal = wants_terminal(options, caller, asks);
    let draft = Draft { place, shared, spec, maps, name, terminal, is_generated: false };
    finish(options, draft)
}

/// A launch whose flags are not applied yet.
struct Draft {
    place: Place,
    shared: Option<Shared>,
    spec: Spec,
    maps: IdMaps,
    name: String,
    terminal: bool,
    /// Rather than written or edited by somebody.
    is_generated: bool,
}

/// Applies the flags, and checks what comes out.
fn finish(options: &RunOptions, draft: Draft) -> Result<Prepared> {
    let Draft { mut place, shared, mut spec, maps, name, terminal, is_generated } = draft;
    let mut notes = place.image.as_mut().map(|i| std::mem::take(&mut i.notes)).unwrap_or_default();
    notes.extend(place.note.take());
    let asked = network::Asked { options, name: &name, is_generated };
    let network = network::decide(asked, &place.rootfs, shared, &mut spec, &mut notes)?;
    let profile = profile::read(options.overrides.security.seccomp.as_ref())?;
    let context = overrides::Context {
        entrypoint: place.image.as_ref().map_or(&[], |image| &image.entrypoint),
        accounts: &place.accounts,
        maps: &maps,
        terminal,
        profile: profile.as_ref().map(|(profile, kernel)| (profile, *kernel)),
        volumes: place.image.as_ref().map_or(&[], |image| &image.volumes),
    };
    overrides::apply(&mut spec, &options.overrides, &context).map_err(Error::User)?;
    check::spec(&spec, &maps)?;
    let bundle = match place.bundle {
        Some(dir) => dir,
        None if options.dry_run => StateRoot::default_dir().join(&name),
        None => StateRoot::open_default()
            .and_then(|root| root.container_dir(&name))
            .map_err(Error::State)?,
    };
    notes.extend(check::read_only_volume(&spec, place.image.as_ref()));
    let launch = Launch {
        id: name.clone(),
        name,
        bundle,
        rootfs: place.rootfs,
        exposed_ports: annotations::exposed_ports(&spec),
        stop_signal: annotations::stop_signal(&spec),
        spec,
        maps,
        network,
        detach: options.detach,
        remove: options.remove,
        log_bytes: options.log_bytes,
    };
    Ok(Prepared { launch, notes })
}

/// With `keep-id` the command runs as the caller unless somebody says so, whatever image and
/// configuration say, as with podman.
fn with_kept_user<'a>(options: &'a RunOptions, caller: &Caller) -> Cow<'a, RunOptions> {
    match ids::kept(&options.ids, caller).filter(|_| options.overrides.user.is_none()) {
        None => Cow::Borrowed(options),
        Some((uid, gid)) => {
            let mut options = options.clone();
            options.overrides.user = Some(UserSpec::ids(uid, gid));
            Cow::Owned(options)
        }
    }
}

/// By default a terminal is used where there is one and the configuration does not object; a
/// container in the background has none to use.
fn wants_terminal(options: &RunOptions, caller: &Caller, config_asks: bool) -> bool {
    options.terminal.unwrap_or(config_asks && caller.on_terminal && !options.detach)
}

/// The directory at `path`, links resolved; `None` when there is none.
fn directory(path: &Path) -> Result<Option<PathBuf>> {
    let found = fs::canonicalize(path);
    match found.and_then(|path| Ok((fs::metadata(&path)?.is_dir(), path))) {
        Ok((is_dir, found)) => Ok(Some(found).filter(|_| is_dir)),
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(cause) => Err(Error::Unreachable { path: path.into(), cause }),
    }
}
