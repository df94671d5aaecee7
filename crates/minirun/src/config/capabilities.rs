//! `--cap-add` and `--cap-drop`.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::value::BadValue;

/// What is to be added and taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilityChanges {
    /// Added, after everything was dropped.
    pub add: Vec<Named>,
    /// Dropped first.
    pub drop: Vec<Named>,
}

/// What can stand after `--cap-add`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// `ALL`.
    All,
    /// One by its name.
    One(Capability),
}

/// Parses names, with or without `CAP_`, in any case; several with commas between.
pub fn parse(option: &'static str, text: &str) -> Result<Vec<Named>, BadValue> {
    let parse = |name: &str| {
        let upper = name.to_ascii_uppercase();
        match upper.strip_prefix("CAP_").unwrap_or(&upper) {
            "ALL" => Ok(Named::All),
            short => short.parse().map(Named::One).map_err(|_| {
                let hint =
                    "capabilities(7) has the names: NET_BIND_SERVICE, or ALL for all of them";
                BadValue::new(option, text, format!("no capability {name:?}"), hint)
            }),
        }
    };
    text.split(',').map(|name| parse(name.trim())).collect()
}

impl CapabilityChanges {
    /// Changes the sets of a process that runs as `uid` inside.
    ///
    /// Docker's order: what is dropped goes first, so that `ALL` can be dropped and some be added.
    /// Root has what is added like the rest of its capabilities. Another user would lose it when the
    /// command is executed, so there it becomes ambient, and inheritable, without which the kernel
    /// allows no ambient one. Any program gets those anyway, so a file with inheritable ones gains
    /// nothing that was not asked for (unlike in CVE-2022-29162).
    pub(super) fn apply(&self, sets: &mut LinuxCapabilities, uid: u32) {
        let gained = self.gained();
        let reduced = |set: &Option<Capabilities>| self.reduced(set.clone().unwrap_or_default());
        let changed = |set: &Option<Capabilities>| Some(&reduced(set) | &gained);
        let passed_on = |set: &Option<Capabilities>| match uid {
            0 => set.as_ref().map(|_| reduced(set)),
            _ => changed(set),
        };
        let (inheritable, ambient) = (passed_on(sets.inheritable()), passed_on(sets.ambient()));
        let (effective, permitted) = (changed(sets.effective()), changed(sets.permitted()));
        sets.set_bounding(changed(sets.bounding()))
            .set_effective(effective)
            .set_permitted(permitted)
            .set_inheritable(inheritable)
            .set_ambient(ambient);
    }

    fn gained(&self) -> Capabilities {
        let all = if self.add.contains(&Named::All) {
            self.without_named(all())
        } else {
            Capabilities::new()
        };
        let named = self.add.iter().filter_map(|name| name.one());
        all.into_iter().chain(named).collect()
    }

    fn reduced(&self, set: Capabilities) -> Capabilities {
        if self.drop.contains(&Named::All) { Capabilities::new() } else { self.without_named(set) }
    }

    fn without_named(&self, mut set: Capabilities) -> Capabilities {
        set.retain(|one| !self.drop.contains(&Named::One(*one)));
        set
    }
}

impl Named {
    fn one(self) -> Option<Capability> {
        match self {
            Self::All => None,
            Self::One(capability) => Some(capability),
        }
    }
}

/// All that there are. One that the kernel does not know yet is no harm: it passes over it.
fn all() -> Capabilities {
    let short = |c: caps::Capability| c.to_string().trim_start_matches("CAP_").parse().ok();
    caps::all().into_iter().filter_map(short).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Capability::{Chown, Kill, NetAdmin, NetBindService};

    fn sets(held: &[Capability]) -> LinuxCapabilities {
        let set = |held: &[Capability]| Some(held.iter().copied().collect());
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(set(&[Chown, Kill])).set_effective(set(held)).set_permitted(set(held));
        sets.set_inheritable(None).set_ambient(None);
        sets
    }

    /// Bounding, effective and ambient afterwards, as sorted names.
    fn after(add: &str, drop: &str, uid: u32) -> [String; 3] {
        let parse = |text: &str| match text {
            "" => Vec::new(),
            text => super::parse("--cap-add", text).unwrap(),
        };
        let mut sets = sets(if uid == 0 { &[Chown, Kill] } else { &[] });
        CapabilityChanges { add: parse(add), drop: parse(drop) }.apply(&mut sets, uid);
        assert_eq!(sets.effective(), sets.permitted());
        let names = |set: &Option<Capabilities>| {
            let mut names: Vec<_> = set.iter().flatten().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        };
        if uid != 0 {
            assert_eq!(names(sets.inheritable()), names(sets.ambient()));
        }
        [names(sets.bounding()), names(sets.effective()), names(sets.ambient())]
    }

    #[test]
    fn root_has_what_is_added_and_not_what_is_dropped() {
        assert_eq!(after("net_admin", "", 0), ["CHOWN KILL NET_ADMIN", "CHOWN KILL NET_ADMIN", ""]);
        assert_eq!(after("", "CAP_KILL", 0), ["CHOWN", "CHOWN", ""]);
        assert_eq!(after("Kill,chown", "all", 0), ["CHOWN KILL", "CHOWN KILL", ""]);
        assert_eq!(after("kill", "kill", 0), ["CHOWN KILL", "CHOWN KILL", ""]);
        assert_eq!(after("", "ALL", 0), ["", "", ""]);
        let [bounding, effective, _] = after("ALL", "net_admin", 0);
        assert_eq!(bounding.split(' ').count(), all().len() - 1);
        assert!(bounding == effective && !bounding.contains("NET_ADMIN"));
    }

    #[test]
    fn another_user_has_what_is_added_alone() {
        let one = "NET_BIND_SERVICE";
        assert_eq!(after("net_bind_service", "all", 5), [one, one, one]);
        assert_eq!(after("net_bind_service", "", 5), ["CHOWN KILL NET_BIND_SERVICE", one, one]);
        assert_eq!(after("", "kill", 5), ["CHOWN", "", ""]);
    }

    #[test]
    fn names_are_taken_in_any_form() {
        let parse = |text: &str| super::parse("--cap-add", text);
        let both = vec![Named::One(NetAdmin), Named::One(NetBindService)];
        assert_eq!(parse("CAP_NET_ADMIN,net_bind_service"), Ok(both));
        assert_eq!(parse("all"), Ok(vec![Named::All]));
        for text in ["", "CAP_", "net", "NET_ADMIN,", "cap_cap_kill"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_capability_has_a_name_here() {
        assert_eq!(all().len(), caps::all().len());
    }
}
