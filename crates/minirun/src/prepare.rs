//! From what was asked for to a [`Launch`]: finds the root filesystem, its record and its bundle's
//! config.json, and puts configuration and flags together.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ctsys::idmap::{IdMaps, IdRange};
use ctsys::record::{ImageRecord, Ownership};
use ctsys::state::StateRoot;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::bundle::{self, Existing};
use crate::caller::Caller;
use crate::config::image::Image;
use crate::config::network::{self as network_config, Net, NetworkOptions};
use crate::config::overrides::{self, Overrides};
use crate::config::{self, Inputs, annotations};
use crate::launch::Launch;
use crate::naming;
use crate::network::{self, Network, NetworkError, Shared};
use crate::user::{Accounts, UserSpec};

mod error;
pub use error::{EXIT_OWN_FAILURE, Error, Result};

/// The root filesystem's name in a bundle.
const ROOTFS: &str = "rootfs";
/// Entries of a root directory that are looked at for their owner: an image has some twenty.
const MAX_OWNERS_LOOKED_AT: usize = 256;

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
    check_options(options)?;
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
        let found = canonical(rootfs).filter(|path| path.is_dir());
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
    let shared = Shared::find(&options.network)?;
    let maps = choose_maps(&mut place, caller)?;
    let maps = or_shared(shared.as_ref(), maps)?;
    let terminal = wants_terminal(options, caller, true);
    let user = options.overrides.user.as_ref();
    let spec = place.generate(caller, &maps, user, &name, terminal)?;
    let draft = Draft { place, shared, spec, maps, name, terminal, is_generated: true };
    finish(options, draft)
}

fn prepare_bundle(options: &RunOptions, caller: &Caller, dir: &Path) -> Result<Prepared> {
    let dir = canonical(dir).filter(|path| path.is_dir()).ok_or_else(|| Error::no_bundle(dir))?;
    let own_name = naming::from_directory(&dir).unwrap_or_else(naming::drawn);
    let name = options.name.clone().unwrap_or_else(|| own_name.clone());
    let former = match bundle::read(&dir).map_err(Error::Bundle)? {
        Existing::Own(spec) => return prepare_own(options, caller, &dir, spec, name),
        Existing::Generated(spec) => Some(spec),
        Existing::None => None,
    };
    let mut place = Place::find(&dir.join(ROOTFS), Some(Path::new(ROOTFS)), Some(&dir))?;
    let maps = choose_maps(&mut place, caller)?;
    // Whether there is a terminal says nothing about the bundle: what stands there stays, so that
    // a run in a pipe does not change the file.
    let said = former.as_ref().and_then(|s| s.process().as_ref()?.terminal());
    let file = file_config(&place, caller, &maps, &own_name, said.unwrap_or(caller.on_terminal))?;
    let shared = Shared::find(&options.network)?;
    let maps = or_shared(shared.as_ref(), maps)?;
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
    if check_spec(&file, maps).is_err() {
        return Ok(None);
    }
    if caller.uid != 0 {
        drop_additional_groups(&mut file);
    }
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
    spec: Spec,
    name: String,
) -> Result<Prepared> {
    let root = spec.root().as_ref().map(|root| root.path().clone());
    let root = root.filter(|path| !path.as_os_str().is_empty());
    let root = root.ok_or_else(|| Error::NoRoot { path: dir.join(bundle::CONFIG_FILE) })?;
    let mut place = Place::find(&dir.join(&root), Some(&root), Some(dir))?;
    // What the image would have brought is not in use.
    place.image.iter_mut().for_each(|image| image.notes.clear());
    let maps = match config::maps_of(&spec, caller, None) {
        Some(maps) => Some(maps),
        None => IdMaps::subordinate(caller.uid, caller.gid)
            .map_err(Error::Subordinate)?
            .and_then(|granted| config::maps_of(&spec, caller, Some(granted.writer))),
    };
    let maps = maps.ok_or_else(|| Error::ForeignMaps { path: dir.join(bundle::CONFIG_FILE) })?;
    let shared = Shared::find(&options.network)?;
    let maps = or_shared(shared.as_ref(), maps)?;
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
    let network =
        decide_network(options, &place.rootfs, shared, &mut spec, &name, is_generated, &mut notes)?;
    let context = overrides::Context {
        entrypoint: place.image.as_ref().map_or(&[], |image| &image.entrypoint),
        accounts: &place.accounts,
        maps: &maps,
        terminal,
    };
    overrides::apply(&mut spec, &options.overrides, &context).map_err(Error::User)?;
    check_spec(&spec, &maps)?;
    let bundle = match place.bundle {
        Some(dir) => dir,
        None => StateRoot::open_default()
            .and_then(|root| root.container_dir(&name))
            .map_err(Error::State)?,
    };
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
    };
    Ok(Prepared { launch, notes })
}

/// Decides the network and changes `spec` for it.
fn decide_network(
    options: &RunOptions,
    rootfs: &Path,
    shared: Option<Shared>,
    spec: &mut Spec,
    name: &str,
    is_generated: bool,
    notes: &mut Vec<String>,
) -> Result<Network> {
    let default =
        options.default_net.as_ref().filter(|_| is_generated && options.network.net.is_none());
    let default = default.map(|text| match text.parse() {
        Ok(Net::Container(_) | Net::Path(_)) | Err(_) => Err(NetworkError::Variable(text.clone())),
        Ok(net) => Ok(net),
    });
    let default = default.transpose()?;
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let has_namespace =
        namespaces.is_some_and(|all| all.iter().any(|n| n.typ() == LinuxNamespaceType::Network));
    let hostname = options.overrides.hostname.as_ref().or(spec.hostname().as_ref());
    let inputs = network::Inputs {
        options: &options.network,
        default: match &default {
            Some(net) => Some(network::Default::Net(net)),
            None => is_generated.then_some(network::Default::WhatWorks),
        },
        has_namespace,
        rootfs,
        id: name,
        hostname: hostname.map_or("", String::as_str),
    };
    let (network, changes) = network::decide(&inputs, shared, notes)?;
    network_config::apply(spec, &changes);
    Ok(network)
}

/// The maps of the user namespace that is to be shared, where one is, instead of `own`.
fn or_shared(shared: Option<&Shared>, own: IdMaps) -> Result<IdMaps> {
    let theirs = shared.map(|shared| shared.maps(&own)).transpose()?.flatten();
    Ok(theirs.unwrap_or(own))
}

fn check_options(options: &RunOptions) -> Result<()> {
    if let Some(name) = &options.name {
        ctsys::state::check_id(name).map_err(Error::Name)?;
    }
    for volume in &options.overrides.volumes {
        // The mount point's type follows the source's, so it has to be there first.
        if let Err(cause) = fs::metadata(&volume.source) {
            return Err(Error::Source { path: volume.source.clone(), cause });
        }
    }
    Ok(())
}

fn check_spec(spec: &Spec, maps: &IdMaps) -> Result<()> {
    let Some(process) = spec.process() else { return Err(Error::NoCommand) };
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::NoCommand);
    }
    let env = process.env().as_deref().unwrap_or_default();
    if let Some(word) = args.iter().chain(env).find(|word| word.contains('\0')) {
        return Err(Error::Nul { word: word.clone() });
    }
    let user = process.user();
    let unmapped = |kind, map: &[IdRange], id| {
        if map.is_empty() || config::is_mapped(map, id) {
            return Ok(());
        }
        Err(Error::Unmapped { kind, id })
    };
    unmapped("user", &maps.uids, user.uid())?;
    unmapped("group", &maps.gids, user.gid())
}

/// By default a terminal is used where there is one and the configuration does not object; a
/// container in the background has none to use.
fn wants_terminal(options: &RunOptions, caller: &Caller, config_asks: bool) -> bool {
    options.terminal.unwrap_or(config_asks && caller.on_terminal && !options.detach)
}

/// Root's containers have all ids as they are, in a user namespace all the same. Another caller's
/// have those that the root filesystem was unpacked with. One that came without a record has the
/// caller's id only, unless something in it belongs to a subordinate id.
fn choose_maps(place: &mut Place, caller: &Caller) -> Result<IdMaps> {
    if caller.uid == 0 {
        return Ok(IdMaps::identity());
    }
    let single = || IdMaps::single(caller.uid, caller.gid);
    let ownership = place.image.as_ref().map(|image| image.ownership);
    match ownership {
        Some(Ownership::Single) => return Ok(single()),
        Some(Ownership::Root) => {
            let rootfs = &place.rootfs;
            place.note =
                Some(format!("{rootfs:?} was unpacked by root: inside, its files are nobody's"));
            return Ok(single());
        }
        Some(Ownership::Subuid) | None => {}
    }
    let subordinate = IdMaps::subordinate(caller.uid, caller.gid).map_err(Error::Subordinate)?;
    match (ownership, subordinate) {
        (Some(_), Some(maps)) => Ok(maps),
        (Some(_), None) => Err(Error::NoSubordinate { rootfs: place.rootfs.clone() }),
        (None, Some(maps)) if has_subordinate_owner(&place.rootfs, &maps, caller.uid) => Ok(maps),
        (None, _) => Ok(single()),
    }
}

fn has_subordinate_owner(rootfs: &Path, maps: &IdMaps, own: u32) -> bool {
    let is_subordinate = |path: &Path| {
        let owner = fs::symlink_metadata(path).map_or(own, |meta| meta.uid());
        let holds = |r: &IdRange| owner.checked_sub(r.outside).is_some_and(|above| above < r.count);
        owner != own && maps.uids.iter().any(holds)
    };
    let entries = fs::read_dir(rootfs).into_iter().flatten().flatten().take(MAX_OWNERS_LOOKED_AT);
    is_subordinate(rootfs) || entries.map(|entry| entry.path()).any(|path| is_subordinate(&path))
}

fn canonical(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}
