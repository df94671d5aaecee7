//! Random profiles, the same at every run.

use super::{ALLOW, Arg, ERRNO, Profile, Rule};

/// A xorshift generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.number() >> 16) as usize % n
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Values that comparisons meet: small ones, and both halves at work.
    pub(crate) fn value(&mut self) -> u64 {
        let small = self.number() % 8;
        match self.below(6) {
            0 | 1 => small,
            2 => (small << 32) | (self.number() % 8),
            3 => u64::from(u32::MAX) - small,
            4 => u64::MAX - small,
            _ => 1 << (self.number() % 64),
        }
    }
}

/// What random profiles are made of.
pub(crate) struct Kind<'a> {
    pub(crate) names: &'a [String],
    /// Interfaces beside this machine's.
    pub(crate) arches: &'a [usize],
    /// Rules, at most.
    pub(crate) rules: usize,
    /// Actions of rules.
    pub(crate) actions: &'a [u32],
    /// Conditions of a rule, at most.
    pub(crate) conditions: usize,
    /// In so many of a hundred rules an argument is named twice.
    pub(crate) repeated: usize,
}

pub(crate) fn profile(random: &mut Random, kind: &Kind<'_>) -> Profile {
    let default =
        random.pick(&[ERRNO | 1, ERRNO | 38, 0, 0x8000_0000, 0x0003_0000, ALLOW, 0x7ffc_0000]);
    let arches = kind.arches.iter().copied().filter(|_| random.below(3) > 0).collect();
    // Few names, so that several rules meet.
    let names: Vec<String> =
        (0..1 + random.below(kind.rules)).map(|_| random.pick(kind.names)).collect();
    let count = 1 + random.below(kind.rules);
    let rules = (0..count).map(|_| rule(random, kind, &names)).collect();
    Profile { default, arches, rules }
}

fn rule(random: &mut Random, kind: &Kind<'_>, names: &[String]) -> Rule {
    let mut args: Vec<Arg> = Vec::new();
    for _ in 0..random.below(kind.conditions + 1) {
        let index = random.below(6);
        if args.iter().all(|a| a.index != index) || random.below(100) < kind.repeated {
            args.push(arg(random, index));
        }
    }
    Rule { name: random.pick(names), action: random.pick(kind.actions), args }
}

fn arg(random: &mut Random, index: usize) -> Arg {
    let op = 1 + random.below(7);
    let (value, second) = match op {
        7 => {
            let mask = random.value() | random.value();
            (mask, random.value() & mask)
        }
        _ => (random.value(), 0),
    };
    Arg { index, op, value, second }
}
