//! Classic BPF as the kernel runs it on a system call (linux/filter.h, seccomp(2)).

/// `struct sock_filter`.
pub(crate) type Program = Vec<(u16, u8, u8, u32)>;

/// A system call: `struct seccomp_data` without the instruction pointer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) arch: u32,
    pub(crate) args: [u64; 6],
}

/// What the program returns, and how many instructions it ran. Panics where the kernel would not
/// have taken the program.
pub(crate) fn run(program: &[(u16, u8, u8, u32)], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0, 0, 0);
    loop {
        let &(code, jt, jf, k) = program.get(at).unwrap_or_else(|| panic!("no instruction {at}"));
        steps += 1;
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = word(call, k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x45 => jump(accumulator & k != 0),
            0x06 => return (k, steps),
            other => panic!("instruction {other:#x} at {}", at - 1),
        }
    }
}

/// The word at a byte offset, on a little-endian machine.
fn word(call: &Call, offset: u32) -> u32 {
    let half = |n: u64, high: bool| (if high { n >> 32 } else { n } & 0xffff_ffff) as u32;
    match offset {
        0 => call.number,
        4 => call.arch,
        16..64 if offset.is_multiple_of(4) => {
            half(call.args[(offset as usize - 16) / 8], offset % 8 == 4)
        }
        other => panic!("load of {other}"),
    }
}
