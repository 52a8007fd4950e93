//! What the services cost: processor time and memory, as the system counts them.

use e2e::Network;

/// The services' processes, and this one.
pub(crate) struct Costs {
    processes: Vec<(String, u32)>,
}

/// Seconds of processor time, in the order of the processes.
#[derive(Clone, Debug)]
pub(crate) struct Cpu(pub(crate) Vec<f64>);

impl Cpu {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let pairs = self.0.iter().zip(&before.0);
        Self(pairs.map(|(after, before)| after - before).collect())
    }
}

impl Costs {
    /// `servers`: those of NATS.
    pub(crate) fn new(network: &Network, servers: Vec<(String, u32)>) -> Self {
        let services = ["consistency", "archive"].map(|name| (name.to_owned(), network.pid(name)));
        let own = ("this program".to_owned(), std::process::id());
        Self {
            processes: services.into_iter().chain(servers).chain([own]).collect(),
        }
    }

    /// Whose costs are counted, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.processes
            .iter()
            .map(|(name, _)| name.as_str())
            .collect()
    }

    pub(crate) fn cpu(&self) -> Cpu {
        let seconds = |(_, pid): &(String, u32)| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            // After the name in parentheses: state is the third field, user and system time the 14th and 15th.
            let fields: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            let ticks: u64 = fields[11..13]
                .iter()
                .map(|ticks| ticks.parse::<u64>().unwrap())
                .sum();
            ticks as f64 / rustix::param::clock_ticks_per_second() as f64
        };
        Cpu(self.processes.iter().map(seconds).collect())
    }

    /// The most that each ever had resident, in MiB.
    pub(crate) fn peaks(&self) -> Vec<(String, f64)> {
        let peak = |(name, pid): &(String, u32)| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib: f64 = line
                .unwrap()
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .unwrap();
            (name.clone(), kib / 1024.0)
        };
        self.processes.iter().map(peak).collect()
    }

    pub(crate) fn memory(&self) -> String {
        let peaks = self.peaks().into_iter();
        let peaks: Vec<String> = peaks
            .map(|(name, mib)| format!("{name} {mib:.0} MiB"))
            .collect();
        format!("peak {}", peaks.join(", "))
    }
}
