//! Classic BPF (seccomp(2), linux/filter.h), written from its end to its beginning: jumps go forward
//! only, so where one leads is known when it is written.

use ctsys::seccomp::Instruction;

use super::condition::Test;

/// `BPF_LD | BPF_W | BPF_ABS`: a word of `seccomp_data` into the accumulator.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`, and for greater, greater or equal.
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// How far a conditional jump reaches is a byte. Two places less: to get the other branch of the
/// same jump near, up to two instructions are written in between.
const REACH: usize = u8::MAX as usize - 2;

/// A place in the program, counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// An instruction.
    At(Label),
    /// Any that returns this value.
    Return(u32),
}

/// A program that grows at its front.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// For each value that is returned, the instruction nearest to the front that does.
    returns: Vec<(u32, Label)>,
}

impl Assembler {
    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// `if accumulator TEST value then … else …`; where to jump for that.
    pub(super) fn branch(
        &mut self,
        test: Test,
        value: u32,
        then: Target,
        otherwise: Target,
    ) -> Target {
        if then == otherwise {
            return then;
        }
        let then = self.near(then);
        let otherwise = self.near(otherwise);
        let code = match test {
            Test::Equal => JUMP_EQUAL,
            Test::Greater => JUMP_GREATER,
            Test::GreaterOrEqual => JUMP_GREATER_OR_EQUAL,
        };
        let (jt, jf) = (self.short_distance(then), self.short_distance(otherwise));
        self.push(Instruction { code, jt, jf, k: value })
    }

    /// The number of the system call into the accumulator, then what stands in front now. That has
    /// to be what `next` is.
    pub(super) fn load_number(&mut self, next: Target) -> Target {
        self.load(NUMBER, next)
    }

    /// As [`Self::load_number`], the architecture.
    pub(super) fn load_arch(&mut self, next: Target) -> Target {
        self.load(ARCH, next)
    }

    /// As [`Self::load_number`], the word at `offset`, masked.
    pub(super) fn load_masked(&mut self, offset: u32, mask: u32, next: Target) -> Target {
        if mask == u32::MAX {
            return self.load(offset, next);
        }
        self.in_front(next);
        let masked = self.push(Instruction { code: AND, jt: 0, jf: 0, k: mask });
        self.load(offset, masked)
    }

    /// The program, in the order that the kernel takes.
    pub(super) fn finish(mut self, entry: Target) -> Vec<Instruction> {
        self.in_front(entry);
        self.reversed.reverse();
        self.reversed
    }

    fn load(&mut self, offset: u32, next: Target) -> Target {
        self.in_front(next);
        self.push(Instruction { code: LOAD, jt: 0, jf: 0, k: offset })
    }

    /// Makes `target` what stands in front, as an instruction that does not jump goes on there.
    fn in_front(&mut self, target: Target) {
        match target {
            Target::At(Label(place)) if place + 1 == self.len() => {}
            Target::At(label) => {
                self.jump(label);
            }
            Target::Return(value) => {
                self.give_back(value);
            }
        }
    }

    /// A place within reach of a jump that is written next, or after one more such step.
    fn near(&mut self, target: Target) -> Label {
        match target {
            Target::At(label) if self.distance(label) <= REACH => label,
            Target::At(label) => self.jump(label),
            Target::Return(value) => match self.returns.iter().find(|(known, _)| *known == value) {
                Some(&(_, label)) if self.distance(label) <= REACH => label,
                // One more return takes no more room than a jump to one, and less time.
                _ => self.give_back(value),
            },
        }
    }

    fn jump(&mut self, label: Label) -> Label {
        let k = u32::try_from(self.distance(label)).unwrap_or(u32::MAX);
        self.put(Instruction { code: JUMP, jt: 0, jf: 0, k })
    }

    fn give_back(&mut self, value: u32) -> Label {
        let label = self.put(Instruction { code: RETURN, jt: 0, jf: 0, k: value });
        match self.returns.iter_mut().find(|(known, _)| *known == value) {
            Some(known) => known.1 = label,
            None => self.returns.push((value, label)),
        }
        label
    }

    fn push(&mut self, instruction: Instruction) -> Target {
        Target::At(self.put(instruction))
    }

    fn put(&mut self, instruction: Instruction) -> Label {
        self.reversed.push(instruction);
        Label(self.len() - 1)
    }

    /// How many instructions a jump that is written next would skip.
    fn distance(&self, Label(place): Label) -> usize {
        self.len() - 1 - place
    }

    fn short_distance(&self, label: Label) -> u8 {
        u8::try_from(self.distance(label)).unwrap_or(u8::MAX)
    }
}
