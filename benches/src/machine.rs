//! The machine's shape, and what it counts.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

/// What figures depend on.
pub(crate) struct Machine {
    /// Lines of "name: value".
    pub(crate) shape: Vec<(&'static str, String)>,
}

impl Machine {
    /// Reads what there is to know; what is not known is "unknown".
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Machine> {
        let cpu = field_of("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = field_of("/proc/meminfo", "MemTotal").unwrap_or_else(unknown);
        let memory = memory.strip_suffix(" kB").and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default();
        let kernel =
            fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), |text| text.trim().to_owned());
        Ok(Machine {
            shape: vec![
                ("date", printed_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
                ("revision", printed_by("git", &["describe", "--always", "--dirty", "--exclude=*"])),
                ("processor", format!("{cpu}, {cores} threads")),
                ("memory", format!("{:.1} GiB", memory / 1024.0 / 1024.0)),
                ("kernel", kernel),
                ("file system", file_system_of(folder)?),
                ("rustc", printed_by("rustc", &["--version"])),
            ],
        })
    }
}

/// The block device under a folder, for counting what reaches it.
pub(crate) struct Device {
    statistics: PathBuf,
}

impl Device {
    /// `None` where the file system hides its device (overlay, tmpfs, network).
    pub(crate) fn of(folder: &Path) -> Option<Device> {
        let device = fs::metadata(folder).ok()?.dev();
        // The encoding of makedev(3).
        let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
        let minor = (device & 0xff) | ((device >> 12) & !0xff & 0xffff_ffff);
        let statistics = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        statistics.is_file().then_some(Device { statistics })
    }

    /// Bytes written to it since the machine started, by whomever.
    pub(crate) fn written_bytes(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(&self.statistics).context("the device went away")?;
        // The kernel's Documentation/block/stat.rst: the seventh number counts written sectors of 512 bytes.
        let sectors: u64 = text.split_whitespace().nth(6).context("no seventh number")?.parse()?;
        Ok(sectors * 512)
    }
}

/// Memory of a process that no file backs, in bytes; 0 when it is gone.
pub(crate) fn memory_bytes(process: u32) -> u64 {
    let kib = field_of(&format!("/proc/{process}/status"), "RssAnon");
    kib.and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// Processor time that a process and those it has waited for took since they started, in seconds.
pub(crate) fn processor_seconds(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses can hold anything; proc(5) counts utime and stime as 14 and 15 with it as 2.
    let numbers = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = numbers.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    // USER_HZ is 100 on every Linux that Rust's std supports.
    ticks / 100.0
}

/// A process and its children.
pub(crate) fn with_children(process: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).chain([process]).collect()
}

fn field_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|found| found.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn file_system_of(folder: &Path) -> anyhow::Result<String> {
    let folder = folder.canonicalize().context("cannot find the folder")?;
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    // The longest mount point above the folder; of equals the last mounted.
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, point, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            folder.starts_with(point).then(|| (point.len(), format!("{kind} on {device} ({options})")))
        })
        .max_by_key(|(length, _)| *length);
    Ok(mount.map_or_else(unknown, |(_, shown)| shown))
}

fn printed_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map_or_else(unknown, |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}
