//! Who a process is to run as: `USER[:GROUP]` by number or by name, looked up in the container's
//! own passwd(5) and group(5).
//!
//! The files belong to the image. So they are found without leaving the root filesystem, read up
//! to a limit, and a number in them or in the name that does not fit is an error: an id that
//! silently became another one (crun's CVE-2026-30892, containerd's CVE-2026-46680) would be root
//! as likely as not.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ctsys::SysError;
use ctsys::inroot;
use ctsys::report::Explain;

/// An image's passwd or group is read up to this size: 16 MiB hold some 200,000 accounts.
const MAX_ACCOUNTS_BYTES: u64 = 16 << 20;
/// (uid_t) -1 means "leave as it is" to the kernel, so it is nobody's id.
const NO_ID: u32 = u32::MAX;

/// `USER[:GROUP]` as typed or as an image has it; the empty text is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    user: IdOrName,
    group: Option<IdOrName>,
}

/// A group as typed, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec(IdOrName);

#[derive(Debug, Clone, PartialEq, Eq)]
enum IdOrName {
    Id(u32),
    Name(String),
}

/// The ids that a [`UserSpec`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// The user's.
    pub uid: u32,
    /// The primary group's.
    pub gid: u32,
    /// The other groups'.
    pub additional_gids: Vec<u32>,
}

/// A container's passwd and group, as far as they could be read. That one cannot be is an error
/// only once something has to be looked up in it.
#[derive(Debug, Clone)]
pub struct Accounts {
    passwd: Result<Vec<u8>, SysError>,
    group: Result<Vec<u8>, SysError>,
}

/// Why no ids were found for a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not of the form USER[:GROUP].
    #[error("invalid user {0:?}: want USER[:GROUP], each a name or a number")]
    Malformed(String),
    /// A number that no id can be.
    #[error("invalid user {0:?}: an id is at most 4294967294")]
    OutOfRange(String),
    /// Not in the container's passwd or group.
    #[error("no {kind} {name:?} in the container's {file}")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name looked for.
        name: String,
        /// Path inside the container.
        file: &'static str,
    },
    /// The line found holds no usable id.
    #[error("the line of {name:?} in the container's {file} has no valid id")]
    Damaged {
        /// Whose line.
        name: String,
        /// Path inside the container.
        file: &'static str,
    },
    /// The file could not be read.
    #[error("cannot look {name:?} up in the container's {file}")]
    Unreadable {
        /// What was to be looked up.
        name: String,
        /// Path inside the container.
        file: &'static str,
        /// The cause.
        #[source]
        source: SysError,
    },
}

impl Explain for UserError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Malformed(_) | Self::OutOfRange(_) => {
                "-u takes a name or number, or both user and group: www-data, 1000, 1000:1000"
            }
            _ => "give numbers instead: -u UID:GID",
        };
        Some(hint.into())
    }
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

impl FromStr for UserSpec {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        if text.is_empty() {
            return Ok(Self::root());
        }
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let group = group.map(|group| id_or_name(group, text)).transpose()?;
        Ok(Self { user: id_or_name(user, text)?, group })
    }
}

impl FromStr for GroupSpec {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        id_or_name(text, text).map(Self)
    }
}

/// `part` of what was typed, which is shown whole.
fn id_or_name(part: &str, whole: &str) -> Result<IdOrName, UserError> {
    if part.is_empty() || part.contains(|c: char| c == ':' || c.is_control()) {
        return Err(UserError::Malformed(whole.into()));
    }
    if !part.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(IdOrName::Name(part.into()));
    }
    match part.parse() {
        Ok(id) if id != NO_ID => Ok(IdOrName::Id(id)),
        _ => Err(UserError::OutOfRange(whole.into())),
    }
}

impl UserSpec {
    /// A user and a group by number.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self { user: IdOrName::Id(uid), group: Some(IdOrName::Id(gid)) }
    }

    /// User 0, which is what an image that names no user runs as.
    pub fn root() -> Self {
        Self { user: IdOrName::Id(0), group: None }
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.user)?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

impl fmt::Display for IdOrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Accounts {
    /// The accounts of the root filesystem at `rootfs`.
    pub fn read(rootfs: &Path) -> Self {
        let read = |path| inroot::read(rootfs, Path::new(path), MAX_ACCOUNTS_BYTES);
        Self { passwd: read(PASSWD), group: read(GROUP) }
    }

    /// The ids of `spec` (image-spec, conversion.md, "Config.User"): numbers as they are, names by
    /// look-up. A user without a group gets the one from passwd; one given by name alone also the
    /// groups that list it, which docker gives to a number as well and that page does not.
    pub fn resolve(&self, spec: &UserSpec) -> Result<Ids, UserError> {
        let (uid, line) = match &spec.user {
            IdOrName::Id(uid) => {
                (*uid, self.passwd.as_ref().ok().and_then(|text| find_by_id(text, 2, *uid)))
            }
            IdOrName::Name(name) => {
                let line = look_up(&self.passwd, "user", name, PASSWD)?;
                (id_in(line, 2, name, PASSWD)?, Some(line))
            }
        };
        let gid = match (&spec.group, line) {
            (Some(IdOrName::Id(gid)), _) => *gid,
            (Some(IdOrName::Name(name)), _) => self.group_by_name(name)?,
            (None, Some(line)) => id_in(line, 3, &spec.user.to_string(), PASSWD)?,
            (None, None) => 0,
        };
        let additional_gids = match (&spec.user, &spec.group, &self.group) {
            (IdOrName::Name(name), None, Ok(groups)) => memberships(groups, name, gid),
            _ => Vec::new(),
        };
        Ok(Ids { uid, gid, additional_gids })
    }

    /// The name of `uid`; `None` without one, or with one that no account should have.
    pub fn name(&self, uid: u32) -> Option<String> {
        let line = self.passwd.as_ref().ok().and_then(|text| find_by_id(text, 2, uid))?;
        let name = std::str::from_utf8(field(line, 0)?).ok()?;
        let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        is_plain.then(|| name.to_owned())
    }

    /// The id of a group.
    pub fn group(&self, spec: &GroupSpec) -> Result<u32, UserError> {
        match &spec.0 {
            IdOrName::Id(gid) => Ok(*gid),
            IdOrName::Name(name) => self.group_by_name(name),
        }
    }

    fn group_by_name(&self, name: &str) -> Result<u32, UserError> {
        id_in(look_up(&self.group, "group", name, GROUP)?, 2, name, GROUP)
    }

    /// The home directory of `uid`; `/` without one, as docker has it.
    pub fn home(&self, uid: u32) -> String {
        let line = self.passwd.as_ref().ok().and_then(|text| find_by_id(text, 2, uid));
        line.and_then(|line| field(line, 5))
            .and_then(|home| std::str::from_utf8(home).ok())
            .filter(|home| home.starts_with('/') && !home.contains('\0'))
            .unwrap_or("/")
            .into()
    }
}

fn look_up<'a>(
    text: &'a Result<Vec<u8>, SysError>,
    kind: &'static str,
    name: &str,
    file: &'static str,
) -> Result<&'a [u8], UserError> {
    let unknown = || UserError::Unknown { kind, name: name.into(), file };
    match text {
        Ok(text) => lines(text).find(|l| field(l, 0) == Some(name.as_bytes())).ok_or_else(unknown),
        Err(e) if e.errno() == nix::errno::Errno::ENOENT => Err(unknown()),
        Err(e) => Err(UserError::Unreadable { name: name.into(), file, source: e.clone() }),
    }
}

fn memberships(groups: &[u8], name: &str, primary: u32) -> Vec<u32> {
    let is_member = |line: &&[u8]| {
        field(line, 3).is_some_and(|members| {
            members.split(|&b| b == b',').any(|member| member.trim_ascii() == name.as_bytes())
        })
    };
    let mut gids: Vec<u32> = lines(groups)
        .filter(is_member)
        .filter_map(|line| field(line, 2).and_then(parse_id))
        .filter(|&gid| gid != primary)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

fn find_by_id(text: &[u8], index: usize, id: u32) -> Option<&[u8]> {
    lines(text).find(|line| field(line, index).and_then(parse_id) == Some(id))
}

fn id_in(line: &[u8], index: usize, name: &str, file: &'static str) -> Result<u32, UserError> {
    field(line, index)
        .and_then(parse_id)
        .ok_or_else(|| UserError::Damaged { name: name.into(), file })
}

/// Blanks around a line are no part of it, as the C library and docker have it. NIS's `+` and `-`
/// lines are accounts with names that nobody asks for.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn field(line: &[u8], index: usize) -> Option<&[u8]> {
    line.split(|&b| b == b':').nth(index)
}

/// Digits only: `u32::from_str` would also take a sign.
fn parse_id(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&id| id != NO_ID)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn accounts(passwd: &str, group: &str) -> Accounts {
        Accounts { passwd: Ok(passwd.into()), group: Ok(group.into()) }
    }

    fn sample() -> Accounts {
        accounts(
            "root:x:0:0:root:/root:/bin/sh\n#web:x:1:1::/:\nweb:x:33:44:www:/var/www:/bin/sh\n\
             bad:x:4294967296:0::/:\nminus:x:-1:0::/:\nempty:x:::/:\nshort:x\n",
            "root:x:0:\nweb:x:44:\naudio:x:29:web,other\nvideo:x:39:other, web\nbig:x:99999999999:web\n",
        )
    }

    fn ids(text: &str) -> Result<Ids, UserError> {
        text.parse().and_then(|spec| sample().resolve(&spec))
    }

    #[test]
    fn every_form_is_resolved() {
        let want = |uid, gid, more: &[u32]| Ok(Ids { uid, gid, additional_gids: more.into() });
        assert_eq!(ids(""), want(0, 0, &[]));
        assert_eq!(ids("root"), want(0, 0, &[]));
        assert_eq!(ids("web"), want(33, 44, &[29, 39]), "a name brings its groups");
        assert_eq!(ids("33"), want(33, 44, &[]), "a number brings the primary group only");
        assert_eq!(ids("33:audio"), want(33, 29, &[]));
        assert_eq!(ids("web:audio"), want(33, 29, &[]), "a given group is the only one");
        assert_eq!(ids("web:7"), want(33, 7, &[]));
        assert_eq!(ids("1234"), want(1234, 0, &[]), "an unknown number is taken as it is");
        assert_eq!(ids("1234:5"), want(1234, 5, &[]));
        assert_eq!(ids("007"), want(7, 0, &[]));
        assert_eq!(ids("4294967294"), want(4_294_967_294, 0, &[]));
    }

    #[test]
    fn no_number_becomes_another_one() {
        for text in ["4294967295", "4294967296", "18446744073709551616", "0:4294967295"] {
            assert_eq!(ids(text), Err(UserError::OutOfRange(text.into())));
        }
        for text in ["-1", "+1", "1 ", "0x0", "1.0"] {
            assert!(matches!(ids(text), Err(UserError::Unknown { .. })), "{text:?}");
        }
        for name in ["bad", "minus", "empty", "short"] {
            assert!(matches!(ids(name), Err(UserError::Damaged { .. })), "{name:?}");
        }
    }

    #[test]
    fn odd_files_are_read_as_the_c_library_reads_them() {
        let long = format!("long:x:7:8:{}:/home/long:/bin/sh", "x".repeat(1 << 20));
        let odd = accounts(
            &format!(
                "+::::::\n-bad::::::\n  blank:x:5:6::/home/blank:/bin/sh\r\n\n{long}\n5:x:9:9::/:\nlast:x:3:4::/last"
            ),
            "+:::\n\tmore:x:20:long,\r\nnone:x:21:\nmore:x:22:long\nself:x:8:long",
        );
        let resolve = |text: &str| odd.resolve(&text.parse().unwrap());
        let want = |uid, gid, more: &[u32]| Ok(Ids { uid, gid, additional_gids: more.into() });
        assert_eq!(resolve("blank"), want(5, 6, &[]));
        assert_eq!(resolve("long"), want(7, 8, &[20, 22]), "not its own group again");
        assert_eq!(resolve("last"), want(3, 4, &[]), "no line break at the end");
        assert_eq!(resolve("5"), want(5, 6, &[]), "a number is never a name");
        assert_eq!(odd.home(7), "/home/long");
        assert_eq!(odd.group(&"more".parse().unwrap()), Ok(20), "the first of a name counts");
        for text in ["+", "-bad", "+:20", "none:none"] {
            assert!(resolve(text).is_err(), "{text}");
        }
        assert!(resolve("4294967294").is_ok_and(|ids| ids.gid == 0));
    }

    #[test]
    fn a_group_is_given_by_name_or_number() {
        let group = |text: &str| text.parse().and_then(|spec| sample().group(&spec));
        assert_eq!((group("audio"), group("4294967294")), (Ok(29), Ok(4_294_967_294)));
        assert!(matches!(group("4294967295"), Err(UserError::OutOfRange(_))));
        assert!(matches!(group("wheel"), Err(UserError::Unknown { kind: "group", .. })));
        assert!(matches!(group("big"), Err(UserError::Damaged { .. })));
        for text in ["", "a:b", "a\n"] {
            assert!(matches!(group(text), Err(UserError::Malformed(_))), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_file_of_accounts_is_told_from_one_that_lacks_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        let of = |text: &str| Accounts::read(dir.path()).resolve(&text.parse().unwrap());
        assert!(matches!(of("web"), Err(UserError::Unknown { .. })), "no file at all");
        std::fs::create_dir_all(etc.join("passwd")).unwrap();
        assert!(matches!(of("web"), Err(UserError::Unreadable { .. })), "a directory");
        std::fs::remove_dir(etc.join("passwd")).unwrap();
        nix::unistd::mkfifo(&etc.join("passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(of("web"), Err(UserError::Unreadable { .. })), "a FIFO");
        std::fs::remove_file(etc.join("passwd")).unwrap();
        let file = std::fs::File::create(etc.join("passwd")).unwrap();
        file.set_len(MAX_ACCOUNTS_BYTES + 1).unwrap();
        assert!(matches!(of("web"), Err(UserError::Unreadable { .. })), "too large");
        assert_eq!(of("5:6").unwrap().uid, 5);
    }

    #[test]
    fn what_is_no_user_is_refused() {
        for text in [":", "a:", ":1", "a:b:c", "a\nb", "a\0"] {
            assert_eq!(text.parse::<UserSpec>(), Err(UserError::Malformed(text.into())));
        }
        let unknown = |kind, name: &str, file| UserError::Unknown { kind, name: name.into(), file };
        assert_eq!(ids("nobody"), Err(unknown("user", "nobody", PASSWD)));
        assert_eq!(ids("0:wheel"), Err(unknown("group", "wheel", GROUP)));
        assert!(ids("#web").is_err(), "a comment is no account");
    }

    #[test]
    fn an_unreadable_passwd_matters_to_names_only() {
        let denied = || Err(SysError::new("openat2", "", Errno::EACCES));
        let closed = Accounts { passwd: denied(), group: denied() };
        let resolve = |text: &str| closed.resolve(&text.parse().unwrap());
        assert_eq!(resolve("5:6").unwrap().uid, 5);
        assert!(matches!(resolve("web"), Err(UserError::Unreadable { .. })));
        assert!(matches!(resolve("5:web"), Err(UserError::Unreadable { .. })));
        assert_eq!(closed.home(0), "/");
    }

    #[test]
    fn home_is_passwds() {
        assert_eq!(sample().home(33), "/var/www");
        assert_eq!(sample().home(5), "/");
        assert_eq!(accounts("a:x:1:1::relative:\n", "").home(1), "/");
    }

    #[test]
    fn a_link_in_the_image_leads_nowhere_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (rootfs, outside) = (dir.path().join("rootfs"), dir.path().join("passwd"));
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::write(&outside, "evil:x:7:7::/:\n").unwrap();
        for target in [outside.to_str().unwrap(), "../../passwd"] {
            let link = rootfs.join("etc/passwd");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(target, &link).unwrap();
            let found = Accounts::read(&rootfs).resolve(&"evil".parse().unwrap());
            assert!(matches!(found, Err(UserError::Unknown { .. })), "{target}: {found:?}");
        }
        // Inside, an absolute link is followed as the container would follow it.
        std::fs::write(rootfs.join("accounts"), "good:x:8:8::/:\n").unwrap();
        std::fs::remove_file(rootfs.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/accounts", rootfs.join("etc/passwd")).unwrap();
        assert_eq!(Accounts::read(&rootfs).resolve(&"good".parse().unwrap()).unwrap().uid, 8);
    }
}
