//! Other processes: this binary again in a part of its own, and what the system says a process costs.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
};

use crate::{Outcome, options::Role};

const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, the same on every Linux

/// This binary, running as `role` until dropped.
pub(crate) struct Helper {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Helper {
    /// Starts it and waits until it listens.
    pub(crate) fn start(role: Role) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--bench", "--role", role.as_str()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().parse().map_err(|_| format!("the {} did not start", role.as_str()))?;
        Ok(Self { child, address })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// In the helper: says where it listens, and ends it when the process that started it is gone.
pub(crate) fn announce(address: SocketAddr) -> io::Result<()> {
    thread::spawn(|| {
        // Nothing is ever written there: this returns when the other end is closed.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}

/// Kills `child`, if it still runs, and waits for its end.
pub(crate) fn end(child: &mut Child) {
    // Both fail only when it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Memory of process `pid` in MB, shared pages divided among those who share them (PSS).
pub(crate) fn memory_mb(pid: u32) -> Outcome<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss in smaps_rollup")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Processor time of process `pid` so far, user and system, in microseconds.
pub(crate) fn cpu_us(pid: u32) -> Outcome<f64> {
    ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?, 2)
}

/// The same of `pid` and its children, those that have ended among them.
pub(crate) fn cpu_us_of_all(pid: u32) -> Outcome<f64> {
    let mut all = ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?, 4)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        // Most are other processes; one may end meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = fields(&stat).and_then(|mut fields| fields.nth(1)).and_then(|parent| parent.parse().ok());
        if parent == Some(pid) {
            all += ticks(&stat, 2)?;
        }
    }
    Ok(all)
}

/// The name, in parentheses, may hold anything; the fields after it are plain.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace())
}

/// utime and stime are the 14th and 15th of all, those of children that have ended the next two: the sum of the first `count`, in
/// microseconds.
fn ticks(stat: &str, count: usize) -> Outcome<f64> {
    let ticks: Result<Vec<f64>, _> = fields(stat).ok_or("no name in stat")?.skip(11).take(count).map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / TICKS_PER_SECOND * 1e6)
}
