//! `linux.resources`, checked: from the terms of cgroup v1, which the specification has
//! (config-linux.md, "Control Groups"), to the files of v2 (the kernel's cgroup-v2.rst), by the
//! rules that runc and crun share.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice,
    LinuxWeightDevice,
};

use super::{PlanError, Result, invalid};

/// The kernel's own period, in microseconds, and what it takes for one (cgroup-v2.rst, `cpu.max`).
const DEFAULT_PERIOD_US: u64 = 100_000;
const PERIODS_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The smallest quota that the kernel takes, in microseconds.
const MIN_QUOTA_US: i64 = 1_000;

/// What a container's cgroup is to hold it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// To be written in this order.
    pub settings: Vec<Setting>,
    /// What `memory.max` will be, in bytes; `None` without a limit.
    pub memory_bytes: Option<i64>,
}

/// A line to write to a file of the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file's name; its controller is what stands before the first dot.
    pub file: String,
    /// The line.
    pub value: String,
    /// What to do on a kernel that lacks the file.
    pub if_absent: IfAbsent,
}

/// What to do where a file is missing though its controller is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfAbsent {
    /// It was asked for: an error.
    Fail,
    /// It only sharpens another setting.
    Skip,
    /// Another file says the same: its name, the line.
    Write(String, String),
}

impl Resources {
    /// The checked form; `None` when nothing needs a cgroup. Device rules do not: a user namespace
    /// cannot make devices at all.
    pub(super) fn new(spec: &LinuxResources) -> Result<Option<Self>> {
        let mut settings = Vec::new();
        if let Some(cpu) = spec.cpu() {
            settings.extend(cpu_settings(cpu)?);
        }
        let mut memory_bytes = None;
        if let Some(memory) = spec.memory() {
            settings.extend(memory_settings(memory)?);
            memory_bytes = memory.limit().filter(|&limit| limit > 0);
        }
        if let Some(pids) = spec.pids() {
            let most = if pids.limit() > 0 { pids.limit() } else { -1 };
            settings.push(setting("pids.max", number(most)));
        }
        if let Some(block_io) = spec.block_io() {
            settings.extend(io_settings(block_io)?);
        }
        for limit in spec.hugepage_limits().iter().flatten() {
            settings.extend(hugetlb_settings(limit)?);
        }
        if let Some(network) = spec.network()
            && (network.class_id().is_some() || network.priorities().is_some())
        {
            return Err(not_in_v2("linux.resources.network"));
        }
        settings.extend(rdma_settings(spec));
        settings.extend(unified_settings(spec)?);
        Ok((!settings.is_empty()).then_some(Self { settings, memory_bytes }))
    }

    /// The controllers that must be there, each once, in alphabetical order.
    pub fn controllers(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.settings.iter().filter_map(Setting::controller).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Setting {
    /// The controller that the file belongs to; none for the core's own.
    pub fn controller(&self) -> Option<&str> {
        let (controller, _) = self.file.split_once('.')?;
        (controller != "cgroup").then_some(controller)
    }
}

fn setting(file: impl Into<String>, value: impl Into<String>) -> Setting {
    Setting { file: file.into(), value: value.into(), if_absent: IfAbsent::Fail }
}

/// As the files have it: "max" for no limit.
fn number(n: i64) -> String {
    if n < 0 { "max".into() } else { n.to_string() }
}

fn cpu_settings(cpu: &LinuxCpu) -> Result<Vec<Setting>> {
    let realtime = cpu.realtime_runtime().is_some_and(|n| n != 0)
        || cpu.realtime_period().is_some_and(|n| n != 0);
    if realtime {
        return Err(not_in_v2("linux.resources.cpu.realtimeRuntime"));
    }
    let mut all = Vec::new();
    if let Some(shares) = cpu.shares().filter(|&n| n != 0) {
        all.push(setting("cpu.weight", weight_of_shares(shares).to_string()));
    }
    if cpu.quota().is_some_and(|n| n != 0) || cpu.period().is_some_and(|n| n != 0) {
        all.push(setting("cpu.max", bandwidth(cpu)?));
    }
    if let Some(burst) = cpu.burst() {
        all.push(setting("cpu.max.burst", burst.to_string()));
    }
    if let Some(idle) = cpu.idle() {
        all.push(setting("cpu.idle", idle.to_string()));
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            all.push(setting(file, one_line("linux.resources.cpu cpus and mems", list)?));
        }
    }
    Ok(all)
}

fn bandwidth(cpu: &LinuxCpu) -> Result<String> {
    let period = cpu.period().filter(|&n| n != 0).unwrap_or(DEFAULT_PERIOD_US);
    if !PERIODS_US.contains(&period) {
        let want = "1000 to 1000000 (microseconds)";
        return Err(invalid("linux.resources.cpu.period", &period.to_string(), want));
    }
    match cpu.quota().filter(|&n| n != 0) {
        Some(quota) if (0..MIN_QUOTA_US).contains(&quota) => {
            let want = "at least 1000 (microseconds), or -1";
            Err(invalid("linux.resources.cpu.quota", &quota.to_string(), want))
        }
        quota => Ok(format!("{} {period}", number(quota.unwrap_or(-1)))),
    }
}

/// Shares (2 to 262144, 1024 by default) as a weight (1 to 10000, 100 by default): the curve
/// through these three points that runc 1.3.2 and crun 1.23 brought in, since on a straight line the
/// default became 39 and lost against everything else on the machine (kubernetes#131216).
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 2 and 262144 the result is between 1 and 10000"
        )]
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

fn memory_settings(memory: &LinuxMemory) -> Result<Vec<Setting>> {
    let kernel = [memory.kernel(), memory.kernel_tcp()];
    for (asked, field) in [
        (kernel.iter().flatten().any(|&n| n != 0), "linux.resources.memory.kernel"),
        (memory.swappiness().is_some(), "linux.resources.memory.swappiness"),
        (memory.disable_oom_killer() == Some(true), "linux.resources.memory.disableOOMKiller"),
    ] {
        if asked {
            return Err(not_in_v2(field));
        }
    }
    let mut all = Vec::new();
    let limit = memory.limit().unwrap_or(0);
    for (file, bytes) in [("memory.max", limit), ("memory.low", memory.reservation().unwrap_or(0))]
    {
        match bytes {
            0 => {}
            -1.. => all.push(setting(file, number(bytes))),
            _ => {
                let want = "a number of bytes, or -1";
                return Err(invalid("linux.resources.memory", &bytes.to_string(), want));
            }
        }
    }
    if let Some(swap) = swap_alone(limit, memory.swap().unwrap_or(0))? {
        // A kernel that does not count swap: none or any amount is as good as it gets, and as much
        // again as there is memory is what engines write when nobody asked for anything.
        let unasked = swap <= 0 || swap == limit;
        let if_absent = if unasked { IfAbsent::Skip } else { IfAbsent::Fail };
        all.push(Setting { if_absent, ..setting("memory.swap.max", number(swap)) });
    }
    Ok(all)
}

/// v1 counts memory and swap together, v2 swap alone.
fn swap_alone(limit: i64, both: i64) -> Result<Option<i64>> {
    let bad = |want| Err(invalid("linux.resources.memory.swap", &both.to_string(), want));
    match both {
        // No limit of memory asks for none of swap either.
        0 if limit == -1 => Ok(Some(-1)),
        0 => Ok(None),
        -1 => Ok(Some(-1)),
        ..-1 => bad("a number of bytes, or -1"),
        _ if limit <= 0 => bad("memory.limit beside it, which it includes"),
        _ if both < limit => bad("at least memory.limit, which it includes"),
        _ => Ok(Some(both - limit)),
    }
}

fn io_settings(io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    let leaf = |d: &LinuxWeightDevice| d.leaf_weight().is_some_and(|n| n != 0);
    let of_devices = io.weight_device().iter().flatten();
    if io.leaf_weight().is_some_and(|n| n != 0) || of_devices.clone().any(leaf) {
        return Err(not_in_v2("linux.resources.blockIO.leafWeight"));
    }
    let mut all = Vec::new();
    if let Some(weight) = io.weight().filter(|&n| n != 0) {
        all.push(io_weight("default", weight)?);
    }
    for device in of_devices {
        if let Some(weight) = device.weight().filter(|&n| n != 0) {
            all.push(io_weight(&device_number(device.major(), device.minor())?, weight)?);
        }
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let name = device_number(device.major(), device.minor())?;
            let rate = match device.rate() {
                0 => "max".into(),
                rate => rate.to_string(),
            };
            all.push(setting("io.max", format!("{name} {key}={rate}")));
        }
    }
    Ok(all)
}

/// The BFQ scheduler has weights of its own, on v1's scale; the other file is the io.cost
/// controller's, 1 to 10000.
fn io_weight(of: &str, weight: u16) -> Result<Setting> {
    if !(10..=1000).contains(&weight) {
        let want = "10 to 1000";
        return Err(invalid("linux.resources.blockIO.weight", &weight.to_string(), want));
    }
    let wide = 1 + (u32::from(weight) - 10) * 9999 / 990;
    let other = IfAbsent::Write("io.weight".into(), format!("{of} {wide}"));
    Ok(Setting { if_absent: other, ..setting("io.bfq.weight", format!("{of} {weight}")) })
}

fn device_number(major: i64, minor: i64) -> Result<String> {
    let shown = format!("{major}:{minor}");
    if major < 0 || minor < 0 {
        return Err(invalid("linux.resources.blockIO device", &shown, "numbers from 0"));
    }
    Ok(shown)
}

fn hugetlb_settings(limit: &LinuxHugepageLimit) -> Result<[Setting; 2]> {
    let size = limit.page_size();
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
    if !digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
        let want = "a size such as 2MB";
        return Err(invalid("linux.resources.hugepageLimits pageSize", size, want));
    }
    let most = number(limit.limit());
    // Since Linux 5.7 reservations are counted apart: without a limit of theirs, using what was
    // reserved ends in SIGBUS.
    let reserved = setting(format!("hugetlb.{size}.rsvd.max"), most.clone());
    Ok([
        setting(format!("hugetlb.{size}.max"), most),
        Setting { if_absent: IfAbsent::Skip, ..reserved },
    ])
}

fn rdma_settings(spec: &LinuxResources) -> Vec<Setting> {
    let mut devices: Vec<_> = spec.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    let line = |name: &str, key: &str, most: Option<u32>| {
        most.map(|most| setting("rdma.max", format!("{name} {key}={most}")))
    };
    let lines = devices.into_iter().flat_map(|(name, most)| {
        [line(name, "hca_handle", most.hca_handles()), line(name, "hca_object", most.hca_objects())]
    });
    lines.flatten().collect()
}

/// `unified`: files of v2 by name, passed through. Each line is a write of its own.
fn unified_settings(spec: &LinuxResources) -> Result<Vec<Setting>> {
    let field = "linux.resources.unified";
    let mut files: Vec<_> = spec.unified().iter().flatten().collect();
    files.sort();
    let mut all = Vec::new();
    for (file, value) in files {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        let is_name = file.bytes().all(plain)
            && file.split_once('.').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
        if !is_name {
            return Err(invalid(field, file, "a file's name, such as memory.high"));
        }
        if file.starts_with("cgroup.") && !file.starts_with("cgroup.max.") {
            // Who is in the cgroup, and what its kind is, is for the runtime alone.
            return Err(invalid(field, file, "a limit's name"));
        }
        let lines = value.lines().filter(|line| !line.is_empty());
        all.extend(lines.map(|line| setting(file.as_str(), line)));
    }
    Ok(all)
}

fn one_line(field: &'static str, text: &str) -> Result<String> {
    if text.contains('\n') { Err(invalid(field, text, "one line")) } else { Ok(text.into()) }
}

fn not_in_v2(field: &str) -> PlanError {
    PlanError::NotInCgroup2(field.to_owned())
}

#[cfg(test)]
mod tests;
