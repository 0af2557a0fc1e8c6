//! Two readings of a profile that share no code with the compiler: the profile itself, rule by rule, and the machine that runs
//! the compiled program. The tests at the end hold them against each other.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator as Op, LinuxSyscall,
};

use super::syscalls::{self, X32_BIT};
use super::{Architecture, Instruction, emit::code};

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    token: u32,
    args: [u64; 6],
}

/// Runs a program as the kernel does: `seccomp_check_filter` allows no more than this of classic BPF.
fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&call.number.to_le_bytes());
    data[4..8].copy_from_slice(&call.token.to_le_bytes());
    for (n, arg) in call.args.iter().enumerate() {
        data[16 + n * 8..24 + n * 8].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            code::LD_ABS => {
                assert_eq!(k % 4, 0);
                a = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap());
            }
            code::LD_IMM => a = k,
            code::AND => a &= k,
            code::RSH_X => a = if x < 32 { a >> x } else { 0 },
            code::TAX => x = a,
            code::JA => at += k as usize,
            code::JEQ => branch(a == k),
            code::JGT => branch(a > k),
            code::JGE => branch(a >= k),
            code::JSET => branch(a & k != 0),
            code::RET => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn returned(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(1);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
        LinuxSeccompAction::ScmpActTrap => 0x3_0000,
        LinuxSeccompAction::ScmpActErrno => 0x5_0000 | data,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | data,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    }
}

fn holds(arg: &LinuxSeccompArg, call: &Call) -> bool {
    let (actual, value) = (call.args[arg.index()], arg.value());
    match arg.op() {
        Op::ScmpCmpNe => actual != value,
        Op::ScmpCmpLt => actual < value,
        Op::ScmpCmpLe => actual <= value,
        Op::ScmpCmpEq => actual == value,
        Op::ScmpCmpGe => actual >= value,
        Op::ScmpCmpGt => actual > value,
        Op::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap_or(0),
    }
}

/// Does the rule's list of conditions hold? All of them, or any where an argument is named twice.
fn matches(rule: &LinuxSyscall, call: &Call) -> bool {
    let Some(args) = rule.args() else { return true };
    let twice = args.iter().enumerate().any(|(n, a)| args[..n].iter().any(|b| b.index() == a.index()));
    if twice { args.iter().any(|a| holds(a, call)) } else { args.iter().all(|a| holds(a, call)) }
}

/// The rules about each number of one architecture, in the order of the profile.
struct Reading<'a> {
    architecture: Architecture,
    about: HashMap<u32, Vec<&'a LinuxSyscall>>,
    newest: Option<u32>,
}

/// Reads a profile, from the profile alone.
fn read(native: Architecture, profile: &LinuxSeccomp) -> Vec<Reading<'_>> {
    let mut covered = vec![native];
    covered
        .extend(profile.architectures().iter().flatten().filter_map(|arch| Architecture::from_spec(*arch)));
    covered.retain(|architecture| architecture.runs_on(native));
    let reading = |architecture| {
        let mut about: HashMap<u32, Vec<&LinuxSyscall>> = HashMap::new();
        for rule in profile.syscalls().iter().flatten() {
            for number in rule.names().iter().filter_map(|name| syscalls::number(architecture, name)) {
                about.entry(number).or_default().push(rule);
            }
        }
        let newest =
            about.keys().copied().filter(|n| architecture != Architecture::Arm || *n < 0x1_0000).max();
        Reading { architecture, about, newest }
    };
    covered.into_iter().map(reading).collect()
}

/// What the profile says about a call.
fn interpret(readings: &[Reading<'_>], profile: &LinuxSeccomp, call: &Call) -> u32 {
    let x32 = call.token == Architecture::X32.token() && call.number >= X32_BIT && call.number != u32::MAX;
    let reading = readings
        .iter()
        .find(|r| r.architecture.token() == call.token && (r.architecture == Architecture::X32) == x32);
    let Some(reading) = reading else { return 0x8000_0000 };
    let about = reading.about.get(&call.number).map_or(&[][..], |rules| rules);
    let unconditional = about.iter().find(|rule| rule.args().as_ref().is_none_or(Vec::is_empty));
    if let Some(rule) = unconditional.or_else(|| about.iter().find(|rule| matches(rule, call))) {
        return returned(rule.action(), rule.errno_ret());
    }
    let default = returned(profile.default_action(), profile.default_errno_ret());
    let permissive = matches!(default & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000);
    match reading.newest {
        Some(newest) if call.number > newest && !permissive => 0x5_0000 | libc::ENOSYS as u32,
        _ => default,
    }
}

mod tests {
    use super::*;
    use crate::seccomp::{compile_for, default_profile};
    use oci_spec::runtime::{
        Arch, Capability, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder,
    };
    use proptest::prelude::*;

    const TOKENS: [u32; 5] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0x1234_5678];

    fn numbers() -> impl Iterator<Item = u32> {
        (0..600).chain(X32_BIT..X32_BIT + 600).chain(0xf_0000..0xf_0040).chain([
            X32_BIT - 1,
            1 << 20,
            u32::MAX - 1,
            u32::MAX,
        ])
    }

    /// Every value that some condition is about, and its neighbours.
    fn interesting(profile: &LinuxSeccomp) -> Vec<u64> {
        let mut values = vec![0, 1, u64::MAX, 1 << 32, (1 << 32) - 1];
        for arg in profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten()) {
            for value in [arg.value(), arg.value_two().unwrap_or(0)] {
                let swapped = value.rotate_left(32);
                values.extend([
                    value,
                    value.wrapping_add(1),
                    value.wrapping_sub(1),
                    !value,
                    swapped,
                    value ^ (1 << 32),
                ]);
            }
        }
        values.sort_unstable();
        values.dedup();
        values
    }

    fn compare(native: Architecture, profile: &LinuxSeccomp, args: &[[u64; 6]]) {
        let program = compile_for(native, profile).unwrap().filter;
        let readings = read(native, profile);
        for token in TOKENS {
            for number in numbers() {
                // Arguments matter only where some rule asks for them.
                let asked = readings.iter().any(|r| {
                    r.about.get(&number).is_some_and(|rules| rules.iter().any(|rule| rule.args().is_some()))
                });
                for args in if asked { args } else { &args[..1] } {
                    let call = Call { number, token, args: *args };
                    let (expected, actual) = (interpret(&readings, profile, &call), run(&program, &call));
                    assert_eq!(
                        actual, expected,
                        "{native:?} {call:x?}: {actual:#x} for {expected:#x}\n{profile:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn default_profile_number_by_number_and_argument_by_argument() {
        for native in [Architecture::X86_64, Architecture::Aarch64] {
            for capabilities in
                [&[][..], &[Capability::SysAdmin, Capability::SysTime], &crate::capability::DEFAULT[..]]
            {
                let mut profile = default_profile(capabilities);
                let all = [
                    Arch::ScmpArchX86_64,
                    Arch::ScmpArchX86,
                    Arch::ScmpArchX32,
                    Arch::ScmpArchAarch64,
                    Arch::ScmpArchArm,
                ];
                profile.set_architectures(Some(all.to_vec()));
                let args: Vec<[u64; 6]> =
                    interesting(&profile).into_iter().map(|v| [v, 0, v, 0, 0, v]).collect();
                compare(native, &profile, &args);
            }
        }
    }

    #[test]
    fn what_the_default_profile_means() {
        let program = compile_for(Architecture::X86_64, &default_profile(&[])).unwrap().filter;
        let on = |name: &str, args: [u64; 6]| {
            let number = syscalls::number(Architecture::X86_64, name).unwrap();
            run(&program, &Call { number, token: 0xc000_003e, args })
        };
        let (allow, eperm, enosys) = (0x7fff_0000, 0x5_0001, 0x5_0000 | libc::ENOSYS as u32);
        assert_eq!(on("read", [0; 6]), allow);
        assert_eq!(on("mount", [0; 6]), eperm);
        assert_eq!(on("io_uring_setup", [0; 6]), eperm);
        assert_eq!(on("keyctl", [0; 6]), eperm);
        assert_eq!(on("clone3", [0; 6]), enosys);
        assert_eq!(on("clone", [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]), allow);
        assert_eq!(on("clone", [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), eperm);
        assert_eq!(on("socket", [libc::AF_INET as u64, 0, 0, 0, 0, 0]), allow);
        assert_eq!(on("socket", [libc::AF_VSOCK as u64, 0, 0, 0, 0, 0]), eperm);
        for high in [1 << 32, u64::MAX << 32] {
            // The kernel takes the family as an int.
            assert_eq!(on("socket", [high | libc::AF_VSOCK as u64, 0, 0, 0, 0, 0]), eperm);
        }
        for family in (0..46).filter(|family| *family != libc::AF_VSOCK as u64) {
            assert_eq!(on("socket", [family, 0, 0, 0, 0, 0]), allow, "{family}");
        }
        assert_eq!(on("personality", [0xffff_ffff, 0, 0, 0, 0, 0]), allow);
        assert_eq!(on("personality", [0x40000, 0, 0, 0, 0, 0]), eperm);
        assert_eq!(run(&program, &Call { number: 9999, token: 0xc000_003e, args: [0; 6] }), enosys);
        assert_eq!(run(&program, &Call { number: 0, token: 0x1234, args: [0; 6] }), 0x8000_0000);
    }

    /// A tracer that wants a call skipped makes its number -1: not a call of a foreign architecture.
    #[test]
    fn number_minus_one_is_judged_like_an_unknown_call() {
        for architectures in [vec![Arch::ScmpArchX86_64], vec![Arch::ScmpArchX86_64, Arch::ScmpArchX32]] {
            let mut profile = default_profile(&[]);
            profile.set_architectures(Some(architectures));
            let program = compile_for(Architecture::X86_64, &profile).unwrap().filter;
            let call = Call { number: u32::MAX, token: 0xc000_003e, args: [0; 6] };
            assert_eq!(run(&program, &call), 0x5_0000 | libc::ENOSYS as u32);
            profile.set_default_action(LinuxSeccompAction::ScmpActAllow);
            let program = compile_for(Architecture::X86_64, &profile).unwrap().filter;
            assert_eq!(run(&program, &call), 0x7fff_0000);
        }
    }

    fn actions() -> impl Strategy<Value = LinuxSeccompAction> {
        use LinuxSeccompAction::*;
        prop::sample::select(vec![
            ScmpActKill,
            ScmpActKillThread,
            ScmpActKillProcess,
            ScmpActTrap,
            ScmpActErrno,
            ScmpActTrace,
            ScmpActLog,
            ScmpActAllow,
        ])
    }

    fn args() -> impl Strategy<Value = LinuxSeccompArg> {
        let ops = prop::sample::select(vec![
            Op::ScmpCmpNe,
            Op::ScmpCmpLt,
            Op::ScmpCmpLe,
            Op::ScmpCmpEq,
            Op::ScmpCmpGe,
            Op::ScmpCmpGt,
            Op::ScmpCmpMaskedEq,
        ]);
        let values =
            prop_oneof![0u64..4, Just(0xffff_ffff), Just(1 << 32), Just(0x1_0000_0001), any::<u64>()];
        (0usize..6, ops, values.clone(), values).prop_map(|(index, op, value, second)| {
            LinuxSeccompArgBuilder::default()
                .index(index)
                .op(op)
                .value(value)
                .value_two(second)
                .build()
                .unwrap()
        })
    }

    fn rules() -> impl Strategy<Value = LinuxSyscall> {
        let names: Vec<String> = syscalls::names().map(str::to_owned).chain(["made_up".to_owned()]).collect();
        // Few distinct names beside many, so that rules meet.
        let few = names.iter().take(6).cloned().collect::<Vec<_>>();
        let name = prop_oneof![prop::sample::select(names), prop::sample::select(few)];
        let errno = prop::option::of(0u32..200);
        (prop::collection::vec(name, 1..40), actions(), prop::collection::vec(args(), 0..3), errno).prop_map(
            |(names, action, args, errno)| {
                let mut rule =
                    LinuxSyscallBuilder::default().names(names).action(action).args(args).build().unwrap();
                rule.set_errno_ret(errno);
                rule
            },
        )
    }

    fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
        let arches = prop::collection::vec(
            prop::sample::select(vec![
                Arch::ScmpArchX86_64,
                Arch::ScmpArchX86,
                Arch::ScmpArchX32,
                Arch::ScmpArchAarch64,
                Arch::ScmpArchArm,
                Arch::ScmpArchMips,
            ]),
            0..4,
        );
        (actions(), prop::option::of(0u32..200), arches, prop::collection::vec(rules(), 0..12)).prop_map(
            |(action, errno, arches, rules)| {
                let mut profile = LinuxSeccompBuilder::default()
                    .default_action(action)
                    .architectures(arches)
                    .syscalls(rules)
                    .build()
                    .unwrap();
                profile.set_default_errno_ret(errno);
                profile
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_profile(profile in profiles(), arm in any::<bool>(), random in prop::array::uniform6(any::<u64>())) {
            let native = if arm { Architecture::Aarch64 } else { Architecture::X86_64 };
            let mut args: Vec<[u64; 6]> = vec![random];
            for (n, value) in interesting(&profile).into_iter().enumerate().take(40) {
                let mut some = [0; 6];
                some[n % 6] = value;
                some[(n + 1) % 6] = value;
                args.push(some);
                args.push([value; 6]);
            }
            compare(native, &profile, &args);
        }
    }

    #[test]
    fn a_program_longer_than_a_conditional_jump_reaches() {
        let rules: Vec<LinuxSyscall> = syscalls::names()
            .enumerate()
            .map(|(n, name)| {
                let arg = LinuxSeccompArgBuilder::default()
                    .index(n % 6)
                    .op(Op::ScmpCmpEq)
                    .value(n as u64)
                    .build()
                    .unwrap();
                let mut rule = LinuxSyscallBuilder::default()
                    .names(vec![name.to_owned()])
                    .action(LinuxSeccompAction::ScmpActErrno)
                    .args(vec![arg])
                    .build()
                    .unwrap();
                rule.set_errno_ret(Some(n as u32));
                rule
            })
            .collect();
        let profile = LinuxSeccompBuilder::default()
            .default_action(LinuxSeccompAction::ScmpActAllow)
            .syscalls(rules)
            .build()
            .unwrap();
        assert!(compile_for(Architecture::X86_64, &profile).unwrap().filter.len() > 1000);
        let args: Vec<[u64; 6]> = (0..500).step_by(7).map(|n| [n; 6]).collect();
        compare(Architecture::X86_64, &profile, &args[..]);
    }
}
