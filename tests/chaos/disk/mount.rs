//! Mounting a disk, so that `syncfs` arrives.
//!
//! Linux forwards `syncfs` to servers of file systems on block devices only (`fuseblk`, since 6.18); for others it
//! succeeds and does nothing. So the disk is mounted on a loop device that nobody reads. fuser does not know the call:
//! what the kernel asks goes through a relay that answers it and hands everything else on.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::fault::Plan;
use super::fuse::{Disk, PIECE_BYTES};
use super::tree::Tree;
use super::volume::Volume;

/// `FUSE_SYNCFS` of the kernel's `fuse.h`.
const SYNCFS: u32 = 50;
/// A request's head: length, operation, unique number, …
const OPERATION: std::ops::Range<usize> = 4..8;
const UNIQUE: std::ops::Range<usize> = 8..16;
/// A piece of data and its head, with room to spare.
const PACKET_BYTES: usize = 2 * PIECE_BYTES as usize;
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);
const DEVICE_BYTES: u64 = 64 * 1024;

/// A mounted disk; unmounted on drop.
pub(super) struct Mounted {
    dir: PathBuf,
    disk: Disk,
    threads: Vec<JoinHandle<()>>,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts a disk with `image` on it over the folder `dir`.
    ///
    /// # Errors
    /// When the system refuses, or does not forward `syncfs`.
    pub(super) fn new(dir: &Path, image: Tree, plan: Plan, noted: bool) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let probe = Disk::new(Volume::new(image.clone(), Plan::default()));
        let mounted = Self::attach(dir, probe)?;
        rustix::fs::syncfs(File::open(dir)?)?;
        if mounted.disk.volume().syncs() == 0 {
            return Err(io::Error::other(
                "this kernel does not forward syncfs to FUSE servers: Linux 6.18 or newer is needed",
            ));
        }
        // The probe is no part of what is counted.
        let mut volume = Volume::new(image, plan);
        if noted {
            volume.note();
        }
        *mounted.disk.volume() = volume;
        Ok(mounted)
    }

    fn attach(dir: &Path, disk: Disk) -> io::Result<Self> {
        let kernel = Arc::new(File::options().read(true).write(true).open("/dev/fuse")?);
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for end in [&ours, &theirs] {
            rustix::net::sockopt::set_socket_send_buffer_size_force(end, 4 * PACKET_BYTES)?;
        }
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,blksize=4096",
            kernel.as_raw_fd()
        );
        let data = CString::new(data)?;
        let device = loop_device(dir)?;
        let mounted = rustix::mount::mount(
            &device,
            dir,
            "fuseblk",
            MountFlags::empty(),
            data.as_c_str(),
        );
        // It lives as long as the mount does.
        run(Command::new("losetup").arg("--detach").arg(&device))?;
        mounted?;
        let mut mounted = Self {
            dir: dir.to_owned(),
            disk,
            threads: Vec::new(),
            is_mounted: true,
        };
        let ours = Arc::new(ours);
        let (asks, from, disk) = (Arc::clone(&ours), Arc::clone(&kernel), mounted.disk.clone());
        mounted
            .threads
            .push(std::thread::spawn(move || ask(&from, &asks, &disk)));
        mounted
            .threads
            .push(std::thread::spawn(move || answer(&ours, &kernel)));
        let config = Config::default();
        let session = Session::from_fd(mounted.disk.clone(), theirs, SessionACL::All, config)?;
        mounted.threads.push(std::thread::spawn(move || {
            // It ends when the mount does.
            session.run().ok();
        }));
        Ok(mounted)
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Unmounts it, when nobody uses it any more, and gives what became of the disk.
    ///
    /// # Errors
    /// When somebody still uses it.
    pub(super) fn unmount(mut self) -> io::Result<Volume> {
        let deadline = Instant::now() + UNMOUNT_LIMIT;
        loop {
            match rustix::mount::unmount(&self.dir, UnmountFlags::empty()) {
                Ok(()) => break,
                // A killed process gives up its files a moment after its end is known.
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.is_mounted = false;
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| io::Error::other("a thread of the disk panicked"))?;
        }
        let disk = self.disk.clone();
        drop(self);
        let volume = disk.into_volume();
        volume.ok_or_else(|| io::Error::other("the disk is still in use"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted {
            // Whoever still uses it gets errors.
            self.disk.volume().cut();
            rustix::mount::unmount(&self.dir, UnmountFlags::DETACH).ok();
        }
    }
}

/// A block device for the kernel to hold.
fn loop_device(dir: &Path) -> io::Result<PathBuf> {
    let file = dir.with_extension("device");
    File::create(&file)?.set_len(DEVICE_BYTES)?;
    let found = run(Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&file))?;
    Ok(PathBuf::from(found.trim()))
}

fn run(command: &mut Command) -> io::Result<String> {
    let ran = command.output()?;
    if !ran.status.success() {
        let text = String::from_utf8_lossy(&ran.stderr);
        return Err(io::Error::other(format!("{command:?}: {}", text.trim())));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// Takes what the kernel asks: `syncfs` is answered here, everything else handed on.
fn ask(kernel: &File, server: &OwnedFd, disk: &Disk) {
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        let length = match rustix::io::read(kernel, &mut packet[..]) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            // Unmounted.
            Err(_) => break,
        };
        let request = &packet[..length];
        let sent = if request[OPERATION] == SYNCFS.to_ne_bytes() {
            let code = disk.volume().sync_all().map_or_else(i32::from, |()| 0);
            let head = [
                &16_u32.to_ne_bytes()[..],
                &(-code).to_ne_bytes(),
                &request[UNIQUE],
            ];
            rustix::io::write(kernel, &head.concat())
        } else {
            rustix::io::write(server, request)
        };
        // One whose asker was killed needs no answer.
        if !matches!(sent, Ok(_) | Err(Errno::NOENT)) {
            break;
        }
    }
    rustix::net::shutdown(server, Shutdown::Both).ok();
}

/// Gives the kernel what the server answers.
fn answer(server: &OwnedFd, kernel: &File) {
    let mut packet = vec![0; PACKET_BYTES];
    while let Ok(length @ 1..) = rustix::io::read(server, &mut packet[..]) {
        // Nobody waits for it any more, or it is about to be unmounted: the other direction finds out.
        rustix::io::write(kernel, &packet[..length]).ok();
    }
}
