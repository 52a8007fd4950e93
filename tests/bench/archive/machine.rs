//! What the figures were measured on, without names.

use std::fs;
use std::path::Path;

use e2e::{binary, run, tool};

/// One line.
pub(crate) fn facts() -> String {
    let cores = std::thread::available_parallelism().unwrap();
    let cpu = of(Path::new("/proc/cpuinfo"), "model name").unwrap_or_else(|| "CPU".to_owned());
    let memory = of(Path::new("/proc/meminfo"), "MemTotal").unwrap();
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let kernel = kernel.split('-').next().unwrap().trim().to_owned();
    let filesystem = run(tool("findmnt")
        .args(["-no", "FSTYPE", "-T"])
        .arg(std::env::temp_dir()));
    let filesystem = String::from_utf8(filesystem).unwrap();
    let rsync = String::from_utf8(run(tool("rsync").arg("--version"))).unwrap();
    let rsync: Vec<&str> = rsync.split_whitespace().take(3).collect();
    let ours = run(std::process::Command::new(binary()).arg("--version"));
    let ours = String::from_utf8(ours).unwrap();
    format!(
        "{cores} cores ({cpu}), {:.0} GiB, Linux {kernel}, {}, {}, {}; caches warm, all on loopback",
        kib / f64::from(1 << 20),
        filesystem.trim(),
        ours.lines().next().unwrap_or_default().trim(),
        rsync.join(" "),
    )
}

fn of(file: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
