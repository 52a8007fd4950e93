//! What processes cost: processor time and memory, by /proc.

/// Ticks a second of the times in /proc: USER_HZ, the same on every machine that we build for.
const TICKS_PER_S: f64 = 100.0;

/// A process and its children, such as nginx and its workers.
#[derive(Clone, Debug)]
pub struct Group(Vec<u32>);

impl Group {
    /// Those that run now.
    pub fn of(pid: u32) -> Self {
        let all = std::fs::read_dir("/proc").unwrap();
        let all = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let children = all.filter(|&other| parent(other) == Some(pid));
        Self(std::iter::once(pid).chain(children).collect())
    }

    /// Processor time so far, in seconds.
    pub fn cpu_s(&self) -> f64 {
        self.0.iter().map(|&pid| cpu_ticks(pid)).sum::<f64>() / TICKS_PER_S
    }

    /// Forgets the peak of memory until now.
    pub fn reset_peak(&self) {
        for pid in &self.0 {
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        }
    }

    /// The peak of resident memory in MiB; what processes share counts for each of them.
    pub fn peak_mib(&self) -> f64 {
        self.0.iter().map(|&pid| peak_kib(pid)).sum::<f64>() / 1024.0
    }
}

/// The fields of /proc/PID/stat behind the name, which may have anything in it.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

fn cpu_ticks(pid: u32) -> f64 {
    let stat = stat(pid).unwrap();
    let [user, system] = [11, 12].map(|at| stat[at].parse::<f64>().unwrap());
    user + system
}

fn peak_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}
