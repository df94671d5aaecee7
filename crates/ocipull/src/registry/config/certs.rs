//! TLS material in files: docker's and podman's `certs.d/HOST` folders
//! (containers-certs.d(5)), and what `hosts.toml` names. Pure.

use std::path::{Path, PathBuf};

/// Where a host's TLS material lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Whether any certificate is taken.
    pub(crate) skip_verify: bool,
    /// CA certificates, trusted beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// What the client shows of itself.
    pub(crate) client: Vec<ClientPair>,
}

/// A client's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientPair {
    pub(crate) cert: PathBuf,
    /// `None`: in the certificate's file as well.
    pub(crate) key: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether nothing is set.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes `other`'s in as well, after what is there.
    pub(crate) fn add(&mut self, other: Self) {
        self.skip_verify |= other.skip_verify;
        self.ca.extend(other.ca);
        self.client.extend(other.client);
    }
}

/// What a folder with these `names` holds: `*.crt` are CAs, `*.cert` with `*.key` of the same name
/// are clients. On failure the name that lacks its other half, and that half's.
pub(crate) fn of_folder(folder: &Path, names: &[String]) -> Result<TlsFiles, (String, String)> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    let mut files = TlsFiles::default();
    for name in &names {
        if name.ends_with(".crt") {
            files.ca.push(folder.join(name));
        } else if let Some(stem) = name.strip_suffix(".cert") {
            let key = format!("{stem}.key");
            if !names.contains(&key.as_str()) {
                return Err(((*name).to_owned(), key));
            }
            files.client.push(ClientPair { cert: folder.join(name), key: Some(folder.join(key)) });
        } else if let Some(stem) = name.strip_suffix(".key") {
            let cert = format!("{stem}.cert");
            if !names.contains(&cert.as_str()) {
                return Err(((*name).to_owned(), cert));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_by_its_endings() {
        let names = ["b.crt", "a.crt", "client.key", "client.cert", "README"].map(str::to_owned);
        let files = of_folder(Path::new("/d"), &names).unwrap();
        assert_eq!(files.ca, [Path::new("/d/a.crt"), Path::new("/d/b.crt")]);
        let key = Some("/d/client.key".into());
        assert_eq!(files.client, [ClientPair { cert: "/d/client.cert".into(), key }]);
    }

    #[test]
    fn half_a_pair_is_a_mistake() {
        for (name, lacks) in [("c.cert", "c.key"), ("c.key", "c.cert")] {
            let missing = of_folder(Path::new("/d"), &[name.to_owned()]).unwrap_err();
            assert_eq!(missing, (name.to_owned(), lacks.to_owned()));
        }
    }
}
