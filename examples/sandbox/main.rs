//! Runs source code nobody has read, within all limits, and says how it ended and what it used.
//!
//! ```sh
//! cargo run --example sandbox                       # six programs, each with another end
//! cargo run --example sandbox -- main.py < input    # .py, .sh, .pl, .js, .rb, with the host's interpreters
//! ```
//!
//! What holds a program differs with the rights there are. Wall-clock time, CPU time of all processes together, output and the
//! size of what is written hold everywhere. Memory, the number of processes and the share of CPUs are held by a control group:
//! as root, or where one is delegated to the user. Without one, memory is limited for each process by itself (RLIMIT_AS, so all
//! together may have 32 times as much), and processes by RLIMIT_NPROC, which counts in the container's user namespace alone
//! (Linux 5.14); the share of CPUs is not.

use std::error::Error;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use container_core::{End, Feature, Host, Outcome, Resource};
use examples::host_root::HostRoot;
use examples::with_causes;

const MEMORY: u64 = 64 << 20;
const TASKS: u64 = 32;
const SCRATCH: u64 = 32 << 20;
const OUTPUT: usize = 64 << 10;

/// Name, source, and whether it ended as it has to.
type Program = (&'static str, &'static str, fn(&Outcome, Held) -> bool);

const DEMO: [Program; 6] = [
    ("sum of two numbers", "read a b; echo $((a + b))", |o, _| o.success() && o.stdout == b"42\n"),
    ("exit status 137", "echo not killed, just a number; exit 137", |o, _| o.end == End::Exited(137)),
    ("never ends", "while :; do :; done", |o, _| matches!(o.end, End::TimedOut(_))),
    ("too much memory", "x=$(head -c 400000000 /dev/zero | tr '\\0' x); echo ${#x}", |o, held| match held {
        Held { memory: true, .. } => o.oom_kills > 0 && !o.success(),
        // The kernel refuses it the memory, and what it says to that is its own business.
        Held { memory: false, .. } => !o.success(),
    }),
    ("too much output", "while :; do echo spam; done", |o, _| matches!(o.end, End::OutputLimit(_))),
    ("fork bomb", "n=0; while [ $n -lt 200 ]; do sleep 3 & n=$((n + 1)); done; wait", |o, held| {
        !o.success() && (o.pids_limit_hits > 0 || !held.tasks)
    }),
];

/// Which limits a control group holds here; the others have to be held for each process by itself.
#[derive(Clone, Copy)]
struct Held {
    memory: bool,
    tasks: bool,
}

impl Held {
    fn here() -> container_core::Result<Self> {
        let host = Host::probe()?;
        let works = |feature| host.verdict(feature).works();
        Ok(Self { memory: works(Feature::MemoryLimit), tasks: works(Feature::PidsLimit) })
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = |group| if group { "a control group" } else { "each process by itself" };
        let tasks = if self.tasks { "a control group" } else { "RLIMIT_NPROC of the user namespace" };
        write!(f, "memory is held by {}, the number of processes by {tasks}", by(self.memory))
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sandbox: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let root = HostRoot::new()?;
    let held = Held::here()?;
    println!("{held}");
    let Some(file) = std::env::args_os().nth(1) else {
        let mut failed = Vec::new();
        for (name, source, right) in DEMO {
            println!("== {name}");
            let outcome = judge(&root, held, "sh", source.as_bytes(), b"40 2\n".to_vec())?;
            show(&outcome);
            if !right(&outcome, held) {
                failed.push(name);
            }
        }
        if failed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        return Err(format!("ended otherwise than they have to: {}", failed.join(", ")).into());
    };
    let file = Path::new(&file);
    let source = std::fs::read(file)?;
    let interpreter = match file.extension().and_then(|extension| extension.to_str()) {
        Some("py") => "python3",
        Some("pl") => "perl",
        Some("js") => "node",
        Some("rb") => "ruby",
        _ => "sh",
    };
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        std::io::stdin().read_to_end(&mut input)?;
    }
    let outcome = judge(&root, held, interpreter, &source, input)?;
    show(&outcome);
    Ok(if outcome.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(
    root: &HostRoot,
    held: Held,
    interpreter: &str,
    source: &[u8],
    input: Vec<u8>,
) -> container_core::Result<Outcome> {
    // The program is part of the root it sees, and everything it writes goes elsewhere.
    std::fs::write(root.path().join("code/main"), source).map_err(|source| container_core::Error::Io {
        action: "write",
        path: root.path().join("code/main"),
        source,
    })?;
    let mut builder = root
        .container()
        .sandbox()
        .command([interpreter, "/code/main"])
        .current_dir("/code")
        // What the program writes is in memory and gone with it.
        .writable_memory(SCRATCH)
        .memory(MEMORY)
        .cpus(1.0)
        .pids(TASKS)
        .rlimit(Resource::OpenFiles, 64, 64)
        .timeout(Duration::from_secs(4))
        .cpu_time(Duration::from_secs(2))
        .output_limit_kill(OUTPUT)
        // Without rights over control groups it still runs, with what can be had, and says so.
        .limits_best_effort(true)
        .input(input);
    if !held.memory {
        builder = builder.rlimit(Resource::AddressSpace, MEMORY, MEMORY);
    }
    if !held.tasks {
        builder = builder.rlimit(Resource::Processes, TASKS, TASKS);
    }
    builder.run()
}

fn show(outcome: &Outcome) {
    let said = match outcome.end {
        End::Exited(code) => format!("exited with {code}"),
        End::Signaled { signal, .. } => format!("killed by signal {signal}"),
        End::OutOfMemory(_) => format!("out of memory (limit {} MiB)", MEMORY >> 20),
        End::TimedOut(limit) => format!("out of time ({limit:?})"),
        End::OutputLimit(stream) => format!("wrote more than {} KiB to {stream:?}", OUTPUT >> 10),
        End::Stopped => "stopped".to_owned(),
        ref other => format!("{other:?}"),
    };
    let out = &outcome.stdout[..outcome.stdout.len().min(200)];
    let _ = std::io::stdout().write_all(out);
    if !out.is_empty() && !out.ends_with(b"\n") {
        println!();
    }
    if !outcome.stderr.is_empty() {
        let text = String::from_utf8_lossy(&outcome.stderr);
        println!("(stderr) {}", text.lines().next().unwrap_or_default());
    }
    print!("-> {said}; {:.0?} wall", outcome.wall_time);
    if let Some(cpu) = outcome.cpu_time {
        print!(", {cpu:.0?} CPU");
    }
    if let Some(peak) = outcome.peak_memory {
        print!(", {:.1} MiB at most", peak as f64 / f64::from(1 << 20));
    }
    if outcome.oom_kills > 0 {
        print!(", {} killed for want of memory", outcome.oom_kills);
    }
    if outcome.pids_limit_hits > 0 {
        print!(", {} forks refused", outcome.pids_limit_hits);
    }
    println!();
    for limit in &outcome.skipped_limits {
        println!("   limit left out: {limit}");
    }
}
