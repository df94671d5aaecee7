//! apt-get inside a user's container: it takes many ids, changes owners and drops to a user of its
//! own, so it is what breaks first where the ids are not right.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::programs::{Finished, Run, binary};
use testkit::tree::{Options, Tree, assert_same};
use testkit::user::{TestUser, UserDir};

/// dpkg syncs what it unpacks, which takes a while on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// Installs the package and says what has become of it.
const INSTALL: &str = "set -e; apt-get install -y /packages/ids-of-many.deb >/tmp/log 2>&1 || \
    { cat /tmp/log; exit 1; }; cat /var/lib/ids-of-many/made; \
    stat -c '%U:%G %a' /var/lib/ids-of-many /var/lib/ids-of-many/made /var/cache/apt/archives/partial";
const INSTALLED: &str = "made by www-data\nwww-data:mail 2750\nwww-data:mail 640\n_apt:root 700\n";

#[test]
fn apt_get_installs_a_package_for_good_or_for_one_run() {
    let pod = Pod::new();
    let before = pod.tree();
    pod.run(&["--ephemeral"], INSTALL).assert_code(0).assert_stdout(INSTALLED);
    assert_same(&before, &pod.tree());

    pod.run(&[], INSTALL).assert_code(0).assert_stdout(INSTALLED);
    let remove = "set -e; cat /var/lib/ids-of-many/made; su www-data -s /bin/sh -c 'id -un'; \
                  apt-get purge -y ids-of-many >/dev/null 2>&1; test ! -e /var/lib/ids-of-many/made";
    let want = "made by www-data\nwww-data\n";
    pod.run(&[], remove).assert_code(0).assert_stdout(want);
}

/// A user's Debian, and a package beside it.
struct Pod {
    user: TestUser,
    dir: UserDir,
}

impl Pod {
    fn new() -> Self {
        let user = TestUser::with_subids().isolated();
        let dir = user.tempdir();
        // Root alone may read the layout that was made for the tests.
        let images = dir.path().join("images");
        Run::program("cp", &["-r", debian().to_str().unwrap(), images.to_str().unwrap()])
            .finish()
            .assert_success();
        user.own_tree(&images);
        let image = format!("oci:{}:latest", images.display());
        let mut pull = user.command(binary("ocipull"));
        pull.arg("--no-cache").arg(image).arg(dir.path().join("rootfs"));
        Run::new(pull).limit(LONG).finish().assert_success();
        let packages = dir.path().join("packages");
        build_package(&dir.path().join("source"), &packages.join("ids-of-many.deb"));
        user.own_tree(&packages);
        Self { user, dir }
    }

    fn run(&self, options: &[&str], script: &str) -> Finished {
        let mut command = self.user.command(binary("minirun"));
        command.args(options).args(["--net", "none", "-v", "./packages:/packages:ro", "./rootfs"]);
        command.args(["--", "/bin/sh", "-c", script]).current_dir(self.dir.path());
        Run::new(command).limit(LONG).finish()
    }

    fn tree(&self) -> Tree {
        Tree::of(&self.dir.path().join("rootfs"), &Options::default())
    }
}

/// A package whose installation gives files to users and groups, and runs a program as one.
fn build_package(source: &Path, deb: &Path) {
    let control = "Package: ids-of-many\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\n\
                   Description: gives files to others\n";
    let postinst = "#!/bin/sh\nset -e\ndir=/var/lib/ids-of-many\nchown www-data:mail $dir\nchmod 2750 $dir\n\
                    setpriv --reuid=www-data --regid=mail --init-groups sh -c \
                    'umask 027; echo made by $(id -un) >/var/lib/ids-of-many/made'\n";
    let postrm = "#!/bin/sh\nrm -f /var/lib/ids-of-many/made\n";
    std::fs::create_dir_all(source.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(source.join("var/lib/ids-of-many")).unwrap();
    std::fs::create_dir_all(deb.parent().unwrap()).unwrap();
    std::fs::write(source.join("DEBIAN/control"), control).unwrap();
    for (name, text) in [("postinst", postinst), ("postrm", postrm)] {
        let path = source.join("DEBIAN").join(name);
        std::fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zgzip", "--build"]).arg(source).arg(deb);
    Run::new(build).limit(LONG).finish().assert_success();
}

fn debian() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let layout = root.join("target/test-images/debian");
    assert!(layout.join("complete").exists(), "no {layout:?}: run scripts/test-deps");
    layout
}
