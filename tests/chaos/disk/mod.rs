//! A disk that runs full, fails, and forgets what was not synced when the power goes.
//!
//! A service has its folders on a file system of ours, which counts the calls that change something. The same work is done
//! again and again, each time with a fault at the next call; then the service is started on what the fault left, and must
//! keep its promises.
//!
//! | module | what it is |
//! | --- | --- |
//! | `tree` | inodes and changes of them |
//! | `volume` | what is seen, what is safe, and what is between |
//! | `fault` | what goes wrong, and when |
//! | `loss` | what a power loss leaves |
//! | `fuse`, `reply`, `mount` | the volume as a file system of the kernel's |
//! | `bed` | the service, its neighbours, its operator's commands |
//! | `publish`, `mirror` | the work that is done, and what must hold |

mod bed;
mod fault;
mod fuse;
mod loss;
mod mirror;
mod mount;
mod publish;
mod reply;
mod tree;
mod volume;

use std::os::unix::process::CommandExt as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use bed::{Bed, Service};
use fault::{Error, Failing, Plan};
use loss::Loss;
use mount::Mounted;
use tree::Tree;

/// Calls that fail in a row when a disk fails for a while.
const FAILING_CALLS: u64 = 8;

/// A disk that runs full, fails, and forgets what was not synced when the power goes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is done; all when left out
    #[arg(long, value_enum)]
    workload: Vec<Work>,
    /// What goes wrong; all when left out
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
    /// First changing call that is hit
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Last one; when left out, the last of the work
    #[arg(long)]
    to: Option<u64>,
    /// Every so many calls
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    stride: u64,
    /// Repeats what chance decides
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Another binary than the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Only does the work and prints its changing calls
    #[arg(long)]
    trace: bool,
    /// Prints the end of the service's log with each failure
    #[arg(long)]
    say: bool,
    /// In a mount namespace already
    #[arg(long, hide = true)]
    inside: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// The archive: builds are published, changed, taken back
    Publish,
    /// A mirror: builds are fetched and shown
    Sync,
    /// A mirror with export trees: builds are fetched, shown, let go and swept
    Export,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fault {
    /// Power loss; only what was synced is left
    Strict,
    /// Power loss; all names are left, and no data that was not synced
    Reordered,
    /// Power loss; some of what was not synced is left
    Random,
    /// The disk is full for some calls
    Enospc,
    /// Some calls fail
    Eio,
    /// Some writes take half of their bytes
    Short,
}

/// Something that a service does, and what must hold afterwards.
trait Workload {
    fn bed(&self) -> &Bed;
    /// Forgets what was.
    fn begin(&mut self) -> Result<(), String>;
    /// Does the work, until it is done or the power goes.
    fn drive(&mut self, service: &mut Service, disk: &Mounted) -> Result<(), String>;
    /// Looks at what the power loss left, before anything is started.
    fn look(&mut self) -> Result<(), String>;
    /// Looks whether all promises are kept.
    fn check(&mut self, service: &mut Service, disk: &Mounted, start: Start) -> Result<(), String>;
}

/// Where the service comes from that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// It has lived through the fault.
    Old,
    /// It was just started on what the power loss left.
    New,
}

impl Work {
    const ALL: [Self; 3] = [Self::Publish, Self::Sync, Self::Export];

    fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Sync => "sync",
            Self::Export => "export",
        }
    }

    fn workload(self) -> Box<dyn Workload> {
        match self {
            Self::Publish => Box::new(publish::Publish::new()),
            Self::Sync => Box::new(mirror::Mirror::new(mirror::Duty::Sync)),
            Self::Export => Box::new(mirror::Mirror::new(mirror::Duty::Export)),
        }
    }
}

impl Fault {
    const ALL: [Self; 6] = [
        Self::Strict,
        Self::Reordered,
        Self::Random,
        Self::Enospc,
        Self::Eio,
        Self::Short,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Reordered => "reordered",
            Self::Random => "random",
            Self::Enospc => "enospc",
            Self::Eio => "eio",
            Self::Short => "short",
        }
    }

    /// What is left when the power goes; after calls that failed it goes at the end.
    fn loss(self) -> Loss {
        match self {
            Self::Strict | Self::Enospc | Self::Eio | Self::Short => Loss::Strict,
            Self::Reordered => Loss::Reordered,
            Self::Random => Loss::Random,
        }
    }

    fn is_power_loss(self) -> bool {
        match self {
            Self::Strict | Self::Reordered | Self::Random => true,
            Self::Enospc | Self::Eio | Self::Short => false,
        }
    }

    fn plan(self, call: u64) -> Plan {
        let error = match self {
            Self::Strict | Self::Reordered | Self::Random => {
                return Plan {
                    power_loss: Some(call),
                    failing: None,
                };
            }
            Self::Enospc => Error::NoSpace,
            Self::Eio => Error::Io,
            Self::Short => Error::Short,
        };
        let calls = call..call + FAILING_CALLS;
        Plan {
            power_loss: None,
            failing: Some(Failing { error, calls }),
        }
    }
}

/// Runs what is asked for; 1 when anything failed.
pub(crate) fn run(args: &Args) -> ExitCode {
    if !args.inside {
        // Mounts are seen by nobody else, and go when the last process of ours does.
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private"]);
        again
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .arg("--inside");
        panic!("unshare does not run: {}", again.exec());
    }
    if let Some(binary) = &args.binary {
        e2e::use_binary(binary.clone());
    }
    let works = if args.workload.is_empty() {
        &Work::ALL[..]
    } else {
        &args.workload
    };
    let faults = if args.fault.is_empty() {
        &Fault::ALL[..]
    } else {
        &args.fault
    };
    let mut failed = false;
    for work in works {
        let mut workload = work.workload();
        let calls = match whole(workload.as_mut(), args.trace) {
            Ok(calls) => calls,
            Err(error) => {
                println!("{} fails without a fault: {error}", work.name());
                failed = true;
                continue;
            }
        };
        println!("{}: {calls} changing calls", work.name());
        if args.trace {
            continue;
        }
        for fault in faults {
            failed |= hit_all(*work, workload.as_mut(), *fault, calls, args) > 0;
        }
    }
    ExitCode::from(u8::from(failed))
}

/// Hits one call after the other; gives the number of failures.
fn hit_all(work: Work, workload: &mut dyn Workload, fault: Fault, calls: u64, args: &Args) -> u64 {
    let begun = Instant::now();
    let (mut points, mut failures) = (0_u64, 0);
    let to = args.to.unwrap_or(calls + 1);
    for call in (args.from..=to).step_by(args.stride as usize) {
        points += 1;
        let seed = args.seed ^ call;
        let hit = AssertUnwindSafe(|| hit(workload, fault, call, seed));
        let outcome = std::panic::catch_unwind(hit).unwrap_or_else(|_| Err("a panic".to_owned()));
        if let Err(error) = outcome {
            failures += 1;
            let (work, fault, seed) = (work.name(), fault.name(), args.seed);
            println!(
                "chaos disk --workload {work} --fault {fault} --from {call} --to {call} --seed {seed}: {error}"
            );
            if args.say {
                println!("{}", workload.bed().log());
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} | {} | {points} | {failures} | {seconds:.1}",
        work.name(),
        fault.name()
    );
    failures
}

/// Does the work on a disk without faults, and gives the number of its changing calls.
fn whole(workload: &mut dyn Workload, trace: bool) -> Result<u64, String> {
    workload.begin()?;
    let bed = workload.bed();
    bed.clear_log();
    let disk = mount(bed, Tree::empty(), Plan::default(), trace)?;
    let mut service = bed.spawn();
    bed.await_ready(&mut service, &disk)?;
    workload.drive(&mut service, &disk)?;
    service.kill();
    let calls = disk.disk().volume().calls();
    for line in disk.disk().volume().noted() {
        println!("{line}");
    }
    after(workload, disk, Loss::Strict, 0)?;
    Ok(calls)
}

/// One fault, and what must hold after it.
fn hit(workload: &mut dyn Workload, fault: Fault, call: u64, seed: u64) -> Result<(), String> {
    workload.begin()?;
    let bed = workload.bed();
    bed.clear_log();
    let disk = mount(bed, Tree::empty(), fault.plan(call), false)?;
    let mut service = bed.spawn();
    bed.supervise(&mut service, &disk)?;
    workload.drive(&mut service, &disk)?;
    if fault.is_power_loss() {
        // The work may have been done before that call.
        disk.disk().volume().cut();
    } else {
        workload.check(&mut service, &disk, Start::Old)?;
    }
    service.kill();
    after(workload, disk, fault.loss(), seed)
}

/// The power goes, and comes back.
fn after(workload: &mut dyn Workload, disk: Mounted, loss: Loss, seed: u64) -> Result<(), String> {
    let volume = disk
        .unmount()
        .map_err(|error| format!("unmount: {error}"))?;
    let bed = workload.bed();
    let disk = mount(bed, volume.lost(loss, seed), Plan::default(), false)?;
    workload.look()?;
    let mut service = workload.bed().spawn();
    workload.check(&mut service, &disk, Start::New)?;
    service.kill();
    disk.unmount()
        .map(drop)
        .map_err(|error| format!("unmount: {error}"))
}

fn mount(bed: &Bed, image: Tree, plan: Plan, noted: bool) -> Result<Mounted, String> {
    let mounted = Mounted::new(&bed.mount, image, plan, noted);
    mounted.map_err(|error| format!("the disk cannot be mounted: {error}"))
}
