//! Conditions on a system call's arguments, as a tree of comparisons of 32-bit words: a filter
//! cannot look at more at a time.
//!
//! The tree, and so which rule wins where several apply, is libseccomp's: on a level the nodes of
//! higher arguments come first, then equality before upper before lower bounds, then the tighter
//! bound or higher value; rules that begin alike share their nodes, and of those the shorter wins.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator as Operator};

/// Arguments of a system call.
pub(super) const MAX_ARGUMENTS: usize = 6;

/// One condition of a rule, for 64 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) operator: Operator,
    /// What the argument is masked with before it is compared.
    pub(super) mask: u64,
    pub(super) value: u64,
}

impl Condition {
    /// The argument has this value.
    pub(super) const fn equals(argument: u8, value: u64) -> Self {
        Self { argument, operator: Operator::ScmpCmpEq, mask: u64::MAX, value }
    }

    /// As in a profile; `None` when there is no such argument.
    pub(super) fn from_profile(arg: &LinuxSeccompArg) -> Option<Self> {
        let argument =
            u8::try_from(arg.index()).ok().filter(|&i| usize::from(i) < MAX_ARGUMENTS)?;
        let (mask, value) = match arg.op() {
            Operator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0)),
            _ => (u64::MAX, arg.value()),
        };
        Some(Self { argument, operator: arg.op(), mask, value })
    }
}

/// Where in `seccomp_data` a word stands: the half of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word {
    argument: u8,
    is_high: bool,
}

impl Word {
    /// Offset in bytes; both architectures are little endian.
    pub(super) fn offset(self) -> u32 {
        16 + 8 * u32::from(self.argument) + if self.is_high { 4 } else { 0 }
    }
}

/// How a word is compared; the rest is done by choosing the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

/// Which nodes of the same word come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    LowerBound,
    UpperBound,
    Equality,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) word: Word,
    pub(super) mask: u32,
    pub(super) test: Test,
    pub(super) value: u32,
    pub(super) then: Branch,
    pub(super) otherwise: Branch,
    class: Class,
    /// The whole value that the node is one half of.
    bound: u64,
}

/// What follows a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Branch {
    /// The next node of the level, or that of the level above.
    Next,
    /// The rule applies: this is what the filter returns.
    Return(u32),
    Level(Level),
}

/// Nodes that are tried one after the other.
pub(super) type Level = Vec<Node>;

/// Two rules apply to the same, with different actions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict;

/// The rule that returns `action` where all `conditions` hold: a path of nodes. The action alone
/// when no condition can fail. `conditions` are of different arguments.
pub(super) fn rule(conditions: &[Condition], is_64_bit: bool, action: u32) -> Branch {
    let mut sorted: Vec<&Condition> = conditions.iter().collect();
    sorted.sort_by_key(|c| c.argument);
    sorted.into_iter().rev().fold(Branch::Return(action), |rest, condition| {
        let seen = if is_64_bit { condition.mask } else { condition.mask & u64::from(u32::MAX) };
        // Nothing of the argument is looked at.
        if condition.operator == Operator::ScmpCmpMaskedEq && seen == 0 {
            return rest;
        }
        Branch::Level(vec![if is_64_bit { whole(condition, rest) } else { low(condition, rest) }])
    })
}

/// Adds the path `new` to `level`.
pub(super) fn insert(level: &mut Level, new: Node) -> Result<(), Conflict> {
    for i in 0..level.len() {
        if level[i].is_same_test(&new) {
            return level[i].merge(new);
        }
        if level[i].comes_after(&new) {
            level.insert(i, new);
            return Ok(());
        }
    }
    level.push(new);
    Ok(())
}

impl Node {
    fn new(condition: &Condition, is_high: bool, test: Test) -> Self {
        let half = |n: u64| if is_high { high_half(n) } else { low_half(n) };
        let class = match condition.operator {
            Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq => {
                Class::Equality
            }
            Operator::ScmpCmpLt | Operator::ScmpCmpLe => Class::UpperBound,
            Operator::ScmpCmpGe | Operator::ScmpCmpGt => Class::LowerBound,
        };
        let mask = half(condition.mask);
        Self {
            word: Word { argument: condition.argument, is_high },
            mask,
            test,
            value: half(condition.value) & mask,
            then: Branch::Next,
            otherwise: Branch::Next,
            class,
            bound: condition.value,
        }
    }

    fn is_same_test(&self, other: &Self) -> bool {
        let key = |n: &Self| (n.word, n.test, n.mask, n.value);
        key(self) == key(other)
    }

    fn comes_after(&self, new: &Self) -> bool {
        let key = |n: &Self| (n.word, n.class);
        key(self) < key(new)
            || key(self) == key(new)
                && match self.class {
                    Class::UpperBound => self.value > new.value,
                    Class::Equality | Class::LowerBound => self.value < new.value,
                }
    }

    fn merge(&mut self, new: Self) -> Result<(), Conflict> {
        // Of two bounds with the same upper half the tighter one decides above or below it.
        let halved = self.word.is_high;
        let higher = halved && new.bound > self.bound;
        let lower = halved && new.bound < self.bound;
        merge(&mut self.then, new.then, halved && self.bound != new.bound, higher)?;
        merge(&mut self.otherwise, new.otherwise, halved && self.bound != new.bound, lower)?;
        match self.class {
            Class::UpperBound if lower => self.bound = new.bound,
            Class::LowerBound if higher => self.bound = new.bound,
            _ => {}
        }
        Ok(())
    }
}

/// Adds `new` to what is there. Two actions conflict, unless `is_choice`: then `new_wins` says.
fn merge(old: &mut Branch, new: Branch, is_choice: bool, new_wins: bool) -> Result<(), Conflict> {
    match (&mut *old, new) {
        (_, Branch::Next) | (Branch::Return(_), Branch::Level(_)) => Ok(()),
        (Branch::Next, new) => {
            *old = new;
            Ok(())
        }
        (Branch::Return(a), Branch::Return(b)) if *a == b || is_choice => {
            if new_wins {
                *a = b;
            }
            Ok(())
        }
        (Branch::Return(_), Branch::Return(_)) => Err(Conflict),
        (Branch::Level(level), Branch::Return(action)) if returns_only(level, action) => {
            *old = Branch::Return(action);
            Ok(())
        }
        (Branch::Level(_), Branch::Return(_)) => Err(Conflict),
        (Branch::Level(level), Branch::Level(new)) => {
            new.into_iter().try_for_each(|node| insert(level, node))
        }
    }
}

fn returns_only(level: &Level, action: u32) -> bool {
    level.iter().flat_map(|node| [&node.then, &node.otherwise]).all(|branch| match branch {
        Branch::Next => true,
        Branch::Return(other) => *other == action,
        Branch::Level(level) => returns_only(level, action),
    })
}

/// Both halves of an argument, the upper one first.
fn whole(condition: &Condition, rest: Branch) -> Node {
    let node = |is_high, test| Node::new(condition, is_high, test);
    let level = |node| Branch::Level(vec![node]);
    match condition.operator {
        Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => {
            let low = Node { then: rest, ..node(false, Test::Equal) };
            Node { then: level(low), ..node(true, Test::Equal) }
        }
        Operator::ScmpCmpNe => {
            let low = Node { otherwise: rest.clone(), ..node(false, Test::Equal) };
            Node { then: level(low), otherwise: rest, ..node(true, Test::Equal) }
        }
        Operator::ScmpCmpGt | Operator::ScmpCmpGe => {
            let test = bound_test(condition.operator);
            let low = Node { then: rest.clone(), ..node(false, test) };
            let same = Node { then: level(low), ..node(true, Test::Equal) };
            Node { then: rest, otherwise: level(same), ..node(true, Test::Greater) }
        }
        Operator::ScmpCmpLt | Operator::ScmpCmpLe => {
            let test = bound_test(condition.operator);
            let low = Node { otherwise: rest.clone(), ..node(false, test) };
            let same = Node { then: level(low), otherwise: rest, ..node(true, Test::Equal) };
            Node { otherwise: level(same), ..node(true, Test::Greater) }
        }
    }
}

/// The lower half of an argument alone.
fn low(condition: &Condition, rest: Branch) -> Node {
    let node = Node::new(condition, false, bound_test(condition.operator));
    match condition.operator {
        Operator::ScmpCmpEq
        | Operator::ScmpCmpMaskedEq
        | Operator::ScmpCmpGt
        | Operator::ScmpCmpGe => Node { then: rest, ..node },
        Operator::ScmpCmpNe | Operator::ScmpCmpLt | Operator::ScmpCmpLe => {
            Node { otherwise: rest, ..node }
        }
    }
}

/// The test whose outcome, or its opposite, is the operator's.
fn bound_test(operator: Operator) -> Test {
    match operator {
        Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq => Test::Equal,
        Operator::ScmpCmpGt | Operator::ScmpCmpLe => Test::Greater,
        Operator::ScmpCmpGe | Operator::ScmpCmpLt => Test::GreaterOrEqual,
    }
}

fn high_half(n: u64) -> u32 {
    low_half(n >> 32)
}

fn low_half(n: u64) -> u32 {
    u32::try_from(n & u64::from(u32::MAX)).unwrap_or(0)
}
