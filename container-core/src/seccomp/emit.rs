//! From verdicts to instructions.
//!
//! The program is written from its end to its beginning: BPF jumps forward only, so what a jump leads to is always there
//! already, at a known distance. Equal pieces are written once. A target that is too far for the 8 bits of a conditional jump
//! gets an unconditional one in between.
//!
//! ```text
//! ld arch; which architecture?                        no: kill the process
//! ld nr; X = nr & 31; newer than the profile?         yes: ENOSYS
//! compare tree over words of 32 numbers
//!   word: numbers with conditions, one by one         -> tests of arguments
//!         for each action: A = mask >> X; bit 0 set?  -> the action
//!         else                                        -> the default
//! ```

use std::collections::HashMap;

use super::policy::{Branch, Condition, ENOSYS, KILL_PROCESS, Policy, Return, Test, Verdict};
use super::{Architecture, Instruction, syscalls::X32_BIT};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

pub(super) mod code {
    pub(in super::super) const LD_ABS: u16 = 0x20;
    pub(in super::super) const LD_IMM: u16 = 0x00;
    pub(in super::super) const AND: u16 = 0x54;
    pub(in super::super) const RSH_X: u16 = 0x7c;
    pub(in super::super) const TAX: u16 = 0x07;
    pub(in super::super) const JA: u16 = 0x05;
    pub(in super::super) const JEQ: u16 = 0x15;
    pub(in super::super) const JGT: u16 = 0x25;
    pub(in super::super) const JGE: u16 = 0x35;
    pub(in super::super) const JSET: u16 = 0x45;
    pub(in super::super) const RET: u16 = 0x06;
}

/// A place in the program, counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Label(usize);

#[derive(Default)]
struct Emitter {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    returns: HashMap<Return, Label>,
    chains: HashMap<(Vec<Branch>, Return), Label>,
}

/// The program for all policies.
pub(super) fn emit(policies: &[Policy]) -> Vec<Instruction> {
    let mut emitter = Emitter::default();
    let mut next = emitter.ret(KILL_PROCESS);
    // x32 shares the token of x86-64, so its policy is entered from there.
    let x32 = policies.iter().find(|p| p.architecture == Architecture::X32);
    for policy in policies.iter().rev().filter(|p| p.architecture != Architecture::X32) {
        let entry = emitter.architecture(policy, x32);
        next = emitter.jump(code::JEQ, policy.architecture.token(), entry, next);
    }
    emitter.push(code::LD_ABS, ARCHITECTURE);
    emitter.reversed.reverse();
    emitter.reversed
}

impl Emitter {
    fn here(&self) -> Label {
        Label(self.reversed.len() - 1)
    }

    fn push(&mut self, code: u16, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt: 0, jf: 0, k });
        self.here()
    }

    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - 1 - to.0
    }

    /// Makes what is written next continue at `to`.
    fn go(&mut self, to: Label) -> Label {
        let distance = self.distance(to);
        if distance == 0 { to } else { self.push(code::JA, distance as u32) }
    }

    fn ret(&mut self, value: Return) -> Label {
        match self.returns.get(&value) {
            // A second return is no longer than a jump to the first.
            Some(label) if self.distance(*label) < 250 => *label,
            _ => {
                let label = self.push(code::RET, value);
                self.returns.insert(value, label);
                label
            }
        }
    }

    fn jump(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return self.go(yes);
        }
        // Either stand-in moves the other target one further away, hence the room left below 255.
        let near = |emitter: &mut Self, label: Label| {
            if emitter.distance(label) > 253 {
                let distance = emitter.distance(label) as u32;
                emitter.push(code::JA, distance)
            } else {
                label
            }
        };
        let yes = near(self, yes);
        let no = near(self, no);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.reversed.push(Instruction { code, jt, jf, k });
        self.here()
    }

    fn architecture(&mut self, policy: &Policy, x32: Option<&Policy>) -> Label {
        let own = self.numbers(policy);
        if policy.architecture != Architecture::X86_64 {
            return own;
        }
        let foreign = match x32 {
            Some(x32) => self.numbers(x32),
            None => self.ret(KILL_PROCESS),
        };
        self.jump(code::JGE, X32_BIT, foreign, own);
        // A tracer that wants a call skipped makes its number -1, which has that bit too.
        self.jump(code::JEQ, u32::MAX, own, self.here());
        self.push(code::LD_ABS, NUMBER)
    }

    /// Judges by number. Nothing is expected in the registers.
    fn numbers(&mut self, policy: &Policy) -> Label {
        // Each word with verdicts, and each gap between them, by first number.
        let mut segments: Vec<(u32, Option<u32>)> = Vec::new();
        let mut end = 0;
        for number in policy.verdicts.keys() {
            let word = number / 32;
            if word < end {
                continue;
            }
            if word > end {
                segments.push((end * 32, None));
            }
            segments.push((word * 32, Some(word)));
            end = word + 1;
        }
        segments.push((end * 32, None));
        let start = self.tree(policy, &segments);
        if let Some(newest) = policy.newest {
            let enosys = self.ret(ENOSYS);
            self.jump(code::JGT, newest, enosys, start);
        } else {
            self.go(start);
        }
        self.push(code::LD_ABS, NUMBER);
        self.push(code::TAX, 0);
        self.push(code::AND, 31);
        self.push(code::LD_ABS, NUMBER)
    }

    /// Finds the segment of the number in A.
    fn tree(&mut self, policy: &Policy, segments: &[(u32, Option<u32>)]) -> Label {
        if let [(_, segment)] = segments {
            return match segment {
                Some(word) => self.word(policy, *word),
                None => self.ret(policy.default),
            };
        }
        let (low, high) = segments.split_at(segments.len() / 2);
        let upper = self.tree(policy, high);
        let lower = self.tree(policy, low);
        self.jump(code::JGE, high[0].0, upper, lower)
    }

    /// Judges the 32 numbers of a word. A = number, X = number % 32.
    fn word(&mut self, policy: &Policy, word: u32) -> Label {
        let mut masks: Vec<(Return, u32)> = Vec::new();
        let mut single = Vec::new();
        for (number, verdict) in policy.verdicts.range(word * 32..(word + 1) * 32) {
            match verdict {
                Verdict::Always(value) => match masks.iter_mut().find(|(known, _)| known == value) {
                    Some((_, mask)) => *mask |= 1 << (number % 32),
                    None => masks.push((*value, 1 << (number % 32))),
                },
                Verdict::Depends(branches) => {
                    let chain = self.chain(branches, policy.default);
                    single.push((*number, chain));
                }
            }
        }
        if let [(value, u32::MAX)] = masks[..] {
            return self.ret(value);
        }
        let mut next = self.ret(policy.default);
        for (value, mask) in masks.iter().filter(|(_, mask)| mask.count_ones() > 2) {
            let yes = self.ret(*value);
            self.jump(code::JSET, 1, yes, next);
            self.push(code::RSH_X, 0);
            next = self.push(code::LD_IMM, *mask);
        }
        // One or two numbers are cheaper to name than to mask; A still holds the number here.
        for (value, mask) in masks.iter().filter(|(_, mask)| mask.count_ones() <= 2) {
            for bit in (0..32).filter(|bit| mask & 1 << bit != 0) {
                let yes = self.ret(*value);
                next = self.jump(code::JEQ, word * 32 + bit, yes, next);
            }
        }
        for (number, chain) in single {
            next = self.jump(code::JEQ, number, chain, next);
        }
        next
    }

    fn chain(&mut self, branches: &[Branch], default: Return) -> Label {
        let key = (branches.to_vec(), default);
        if let Some(label) = self.chains.get(&key) {
            return *label;
        }
        let mut next = self.ret(default);
        for branch in branches.iter().rev() {
            let mut yes = self.ret(branch.then);
            for condition in branch.conditions.iter().rev() {
                yes = self.condition(condition, yes, next);
            }
            next = yes;
        }
        self.chains.insert(key, next);
        next
    }

    fn condition(&mut self, condition: &Condition, yes: Label, no: Label) -> Label {
        // Little-endian, as both architectures are: the low word comes first.
        let low = ARGUMENTS + 8 * u32::from(condition.argument);
        let high = low + 4;
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        match condition.test {
            Test::Equal(value) => self.masked(low, u64::MAX, value, yes, no),
            Test::NotEqual(value) => self.masked(low, u64::MAX, value, no, yes),
            Test::MaskedEqual { mask, value } => self.masked(low, mask, value, yes, no),
            Test::Greater(value) => self.above(high, low, halves(value), code::JGT, yes, no),
            Test::GreaterOrEqual(value) => self.above(high, low, halves(value), code::JGE, yes, no),
            Test::LessOrEqual(value) => self.above(high, low, halves(value), code::JGT, no, yes),
            Test::Less(value) => self.above(high, low, halves(value), code::JGE, no, yes),
        }
    }

    fn masked(&mut self, low: u32, mask: u64, value: u64, yes: Label, no: Label) -> Label {
        let lower = self.masked_half(low, mask as u32, value as u32, yes, no);
        self.masked_half(low + 4, (mask >> 32) as u32, (value >> 32) as u32, lower, no)
    }

    fn masked_half(&mut self, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        if mask == 0 {
            return if value == 0 { yes } else { no };
        }
        self.jump(code::JEQ, value, yes, no);
        if mask != u32::MAX {
            self.push(code::AND, mask);
        }
        self.push(code::LD_ABS, offset)
    }

    fn above(&mut self, high: u32, low: u32, value: (u32, u32), last: u16, yes: Label, no: Label) -> Label {
        self.jump(last, value.1, yes, no);
        let lower = self.push(code::LD_ABS, low);
        let equal = self.jump(code::JEQ, value.0, lower, no);
        self.jump(code::JGT, value.0, yes, equal);
        self.push(code::LD_ABS, high)
    }
}
