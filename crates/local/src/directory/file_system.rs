//! Refusing file systems that cannot hold a database.
//!
//! SQLite in WAL mode shares memory between processes through a mapped file, and locks parts of files. Network
//! file systems break one or the other, silently, and lose acknowledged writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dormouse_core::{Error, Result};

const NETWORK_FILE_SYSTEMS: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse.cephfs",
    "fuse.glusterfs",
    "fuse.gcsfuse",
    "fuse.mount-s3",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
    "smb2",
    "smb3",
    "smbfs",
    "vboxsf",
];

/// Checks what the kernel tells of the file system that `path`, absolute and without links, is on. Where it
/// tells nothing, as outside Linux, everything passes.
///
/// # Errors
/// `Invalid` for a network or read-only file system.
pub(super) fn check_file_system(path: &Path) -> Result<()> {
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounts) => check_mount(path, &mounts),
        Err(_) => Ok(()),
    }
}

fn check_mount(path: &Path, mounts: &str) -> Result<()> {
    let mount = mounts
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.as_os_str().len());
    let Some(mount) = mount else {
        return Ok(());
    };
    if NETWORK_FILE_SYSTEMS.contains(&mount.kind) {
        return Err(Error::invalid(format!(
            "{} is on a network file system ({}, mounted at {}), where a database loses data; use a local disk",
            path.display(),
            mount.kind,
            mount.point.display()
        )));
    }
    if mount.read_only {
        return Err(Error::invalid(format!(
            "{} is on a read-only file system ({}, mounted at {})",
            path.display(),
            mount.kind,
            mount.point.display()
        )));
    }
    Ok(())
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    point: PathBuf,
    kind: &'a str,
    read_only: bool,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mount: Vec<_> = mount.split(' ').collect();
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?;
        let options = [mount.get(5)?, file_system.nth(1).unwrap_or_default()];
        let read_only = options
            .iter()
            .any(|options| options.split(',').any(|option| option == "ro"));
        Some(Self {
            point: PathBuf::from(unescape(mount.get(4)?)),
            kind,
            read_only,
        })
    }
}

/// The kernel writes spaces, tabs, line ends and backslashes as octal numbers.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| {
            text.replace(escaped, plain)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
20 1 254:0 / / rw,relatime - ext4 /dev/vda rw
21 20 0:20 / /mnt/share rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2
22 20 0:21 / /mnt/share/disk rw - xfs /dev/vdb rw
23 20 0:22 / /media/my\\040disc ro,nosuid - iso9660 /dev/sr0 ro
24 20 0:23 / /mnt/laptop rw,relatime - 9p C: rw,dirsync
";

    fn check(path: &str) -> Result<()> {
        check_mount(Path::new(path), MOUNTS)
    }

    #[test]
    fn local_disks_pass() {
        for path in [
            "/",
            "/var/lib/dormouse",
            "/mnt/share/disk/dormouse",
            "/mnt/shared",
        ] {
            check(path).unwrap();
        }
    }

    #[test]
    fn network_file_systems_are_refused_by_name() {
        for (path, kind) in [("/mnt/share/dormouse", "nfs4"), ("/mnt/laptop/dormouse", "9p")] {
            let error = check(path).unwrap_err();
            assert_eq!(error.kind(), dormouse_core::ErrorKind::Invalid);
            let message = error.to_string();
            assert!(message.contains(path) && message.contains(kind), "{message}");
        }
    }

    #[test]
    fn read_only_file_systems_are_refused() {
        let error = check("/media/my disc/dormouse").unwrap_err();
        assert!(error.to_string().contains("read-only"), "{error}");
    }
}
