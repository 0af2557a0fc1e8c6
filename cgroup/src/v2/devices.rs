//! Device access on v2: there are no files for it, a BPF program attached to the group decides.

use std::io;
use std::os::fd::AsFd;

use crate::devices::{Access, DeviceKind, DeviceRule};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::sys::bpf::{self, Instruction, Name};

/// Tells this library's programs from those that others, such as systemd, attach to the same group.
const NAME: Name = *b"cgroup_devices\0\0";

/// Puts a program for `rules` in the place of the one that was there.
pub(crate) fn set(dir: &Dir, rules: &[DeviceRule]) -> Result<()> {
    let failed = |step| move |source| Error::Devices { step, path: dir.path().to_owned(), source };
    let group = dir.as_fd();
    let before = own_programs(dir).map_err(failed("list the device programs of"))?;
    if !is_allow_all(rules) {
        let new = bpf::load(NAME, &program(rules)).map_err(failed("load the device program for"))?;
        bpf::attach(group, new.as_fd()).map_err(failed("attach the device program to"))?;
    }
    // The old one goes last, so that there never is a moment without.
    for old in before {
        bpf::detach(group, old.as_fd()).map_err(failed("detach the former device program from"))?;
    }
    Ok(())
}

fn own_programs(dir: &Dir) -> io::Result<Vec<std::os::fd::OwnedFd>> {
    let mut own = Vec::new();
    for id in bpf::attached(dir.as_fd())? {
        let program = bpf::open(id)?;
        if bpf::name(program.as_fd())? == NAME {
            own.push(program);
        }
    }
    Ok(own)
}

fn is_allow_all(rules: &[DeviceRule]) -> bool {
    rules.iter().rev().find(|rule| !rule.allow || covers_all(rule)).is_some_and(|rule| rule.allow)
}

fn covers_all(rule: &DeviceRule) -> bool {
    rule.kind == DeviceKind::All && rule.major.is_none() && rule.minor.is_none() && rule.access == Access::ALL
}

// Registers. R0 is the answer, R1 comes in as the context.
const R0: u8 = 0;
const R1: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const ALLOWED: u8 = 6;

// What the kernel calls block and character device in `struct bpf_cgroup_dev_ctx`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

// Opcodes of the instruction set (Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const AND_REGISTER: u8 = 0x5f;
const OR: u8 = 0x47;
const XOR: u8 = 0xa7;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL_32: u8 = 0x56;
const EXIT: u8 = 0x95;

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let registers =
        if cfg!(target_endian = "big") { destination << 4 | source } else { destination | source << 4 };
    Instruction { code, registers, offset, immediate }
}

/// The program: gather what the rules allow for this node, first rule to last, then compare with what is wanted.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD_WORD, KIND, R1, 0, 0),
        op(MOVE_REGISTER, WANTED, KIND, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, WANTED, 0, 0, 16),
        op(LOAD_WORD, MAJOR, R1, 4, 0),
        op(LOAD_WORD, MINOR, R1, 8, 0),
        op(MOVE, ALLOWED, 0, 0, 0),
    ];
    // What comes before a rule about everything does not matter.
    let start = rules.iter().rposition(covers_all).unwrap_or(0);
    for rule in &rules[start..] {
        let kind = match rule.kind {
            DeviceKind::All => None,
            DeviceKind::Char => Some(CHAR),
            DeviceKind::Block => Some(BLOCK),
        };
        let conditions = [
            (KIND, kind),
            (MAJOR, rule.major.map(u32::cast_signed)),
            (MINOR, rule.minor.map(u32::cast_signed)),
        ];
        let mut left = conditions.iter().filter(|(_, value)| value.is_some()).count() as i16;
        for (register, value) in conditions {
            if let Some(value) = value {
                // Over the remaining conditions and the one instruction that follows them.
                program.push(op(JUMP_IF_NOT_EQUAL_32, register, 0, left, value));
                left -= 1;
            }
        }
        let access = i32::from(rule.access.bits());
        program.push(if rule.allow {
            op(OR, ALLOWED, 0, 0, access)
        } else {
            op(AND, ALLOWED, 0, 0, !access & 7)
        });
    }
    program.extend([
        op(XOR, ALLOWED, 0, 0, 7),
        op(AND_REGISTER, WANTED, ALLOWED, 0, 0),
        op(MOVE, R0, 0, 0, 1),
        op(JUMP_IF_EQUAL, WANTED, 0, 1, 0),
        op(MOVE, R0, 0, 0, 0),
        op(EXIT, 0, 0, 0, 0),
    ]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by carrying it out.
    fn run(program: &[Instruction], kind: i32, wanted: Access, major: u32, minor: u32) -> bool {
        let context = [u64::from(wanted.bits()) << 16 | kind as u64, major.into(), minor.into()];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let instruction = program[at];
            let (to, from) =
                (usize::from(instruction.registers & 15), usize::from(instruction.registers >> 4));
            let immediate = i64::from(instruction.immediate) as u64;
            at += 1;
            match instruction.code {
                LOAD_WORD => registers[to] = context[instruction.offset as usize / 4],
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE => registers[to] = immediate,
                AND => registers[to] &= immediate,
                AND_REGISTER => registers[to] &= registers[from],
                OR => registers[to] |= immediate,
                XOR => registers[to] ^= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_IF_EQUAL if registers[to] == immediate => at += instruction.offset as usize,
                JUMP_IF_NOT_EQUAL_32 if registers[to] as u32 != immediate as u32 => {
                    at += instruction.offset as usize
                }
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL_32 => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    /// What the rules say, in so many words.
    fn decide(rules: &[DeviceRule], kind: i32, wanted: Access, major: u32, minor: u32) -> bool {
        let mut allowed = Access::NONE;
        for rule in rules {
            let is_kind = match rule.kind {
                DeviceKind::All => true,
                DeviceKind::Char => kind == CHAR,
                DeviceKind::Block => kind == BLOCK,
            };
            if is_kind
                && rule.major.is_none_or(|own| own == major)
                && rule.minor.is_none_or(|own| own == minor)
            {
                allowed = if rule.allow { allowed | rule.access } else { allowed.without(rule.access) };
            }
        }
        allowed.contains(wanted)
    }

    #[test]
    fn the_program_decides_as_the_rules_say() {
        let letters = ["r", "w", "m", "rw", "rwm"].map(|letters| Access::from_letters(letters).unwrap());
        let mut rules = Vec::new();
        for allow in [true, false] {
            for kind in [DeviceKind::All, DeviceKind::Char, DeviceKind::Block] {
                for (major, minor) in
                    [(None, None), (Some(1), None), (Some(1), Some(3)), (Some(u32::MAX), Some(0))]
                {
                    for access in letters {
                        rules.push(DeviceRule { allow, kind, major, minor, access });
                    }
                }
            }
        }
        // Every pair of rules, and the default list, against nodes inside and outside of them.
        let mut lists: Vec<Vec<DeviceRule>> =
            rules.iter().flat_map(|first| rules.iter().map(|second| vec![*first, *second])).collect();
        lists.extend([DeviceRule::defaults(), Vec::new()]);
        for list in lists {
            let program = program(&list);
            for kind in [BLOCK, CHAR] {
                for wanted in letters {
                    for (major, minor) in [(1, 3), (1, 5), (8, 0), (u32::MAX, 0)] {
                        let want = decide(&list, kind, wanted, major, minor);
                        let got = run(&program, kind, wanted, major, minor);
                        assert_eq!(got, want, "{list:?} {kind} {wanted} {major}:{minor}");
                    }
                }
            }
            if is_allow_all(&list) {
                assert!(decide(&list, CHAR, Access::ALL, 77, 77), "{list:?}");
            }
        }
        assert!(is_allow_all(&[DeviceRule::allow_all()]) && !is_allow_all(&[]));
    }
}
