//! Boots a kernel with an initramfs under QEMU.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::kernel::Kernel;

/// How long a run takes at most, in software emulation on a busy machine.
const DEADLINE: Duration = Duration::from_secs(40 * 60);

/// Little, so that what is meant to fail for want of memory fails soon.
const MEMORY: &str = "1024M";

/// Boots with the `initramfs` in a directory, prints the console, and gives what
/// came by the second serial port.
pub fn boot(kernel: &Kernel, directory: &Path) -> Result<String> {
    let report = directory.join("report");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    qemu.args(["-display", "none", "-monitor", "none"]);
    // Emulated, and so the same on every machine; many have no KVM, or one that
    // fails only once it runs.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
    qemu.args(["-smp", "2", "-m", MEMORY]);
    qemu.arg("-kernel").arg(&kernel.image);
    qemu.arg("-initrd").arg(directory.join("initramfs"));
    // A panic ends the machine, and so the run. The root is no tmpfs, so that
    // there are files without seals, as on any disk.
    let quiet = "console=ttyS0 quiet loglevel=2";
    let append = format!("{quiet} panic=-1 rootfstype=ramfs");
    qemu.args(["-append", &append]);
    qemu.args(["-serial", "stdio", "-serial"]);
    qemu.arg(format!("file:{}", report.display()));
    let mut machine = qemu.spawn()?;
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = machine.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            machine.kill()?;
            break machine.wait()?;
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        eprintln!("vm: {qemu:?} ended with {status}");
    }
    Ok(String::from_utf8_lossy(&fs::read(report)?).into_owned())
}
