//! Who may do what with a file: owner, group, mode, ACL; read from one and given to another.

use std::fs::{self, File, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, lgetxattr, lgetxattr_query};
use rustix::io::Errno;

use super::error::Failure;
use super::file::failed;

/// The kernel's form of it; `getfacl` prints it.
const ACL: &str = "system.posix_acl_access";
/// What SELinux goes by, where there is one.
const LABEL: &str = "security.selinux";

pub struct Rights {
    found: Metadata,
    acl: Option<Vec<u8>>,
    label: Option<Vec<u8>>,
}

impl Rights {
    /// `None`: there is no such file.
    pub fn of(path: &Path) -> Result<Option<Rights>, Failure> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("reading", path, &error)),
        };
        let acl =
            attribute(path, ACL).map_err(|error| failed("reading the ACL of", path, &error))?;
        // To give it on is for a policy to allow: without it the file has its folder's.
        let label = attribute(path, LABEL).unwrap_or_default();
        Ok(Some(Rights { found, acl, label }))
    }

    /// Those of its owner alone.
    pub fn of_owner(&self) -> u32 {
        self.found.mode() & 0o700
    }
}

/// Before there is anything in it. `path`: whose rights these are.
pub fn give(file: &File, rights: &Rights, path: &Path) -> Result<(), Failure> {
    let kept = |what, error: std::io::Error| Failure::Kept {
        place: path.display().to_string(),
        what,
        detail: error.to_string(),
    };
    let own = file.metadata().map_err(|error| kept("owner", error))?;
    let (uid, gid) = (rights.found.uid(), rights.found.gid());
    if own.uid() != uid {
        fchown(file, Some(uid), None).map_err(|error| kept("owner", error))?;
    }
    if own.gid() != gid {
        fchown(file, None, Some(gid)).map_err(|error| kept("group", error))?;
    }
    let given = match &rights.acl {
        Some(acl) => fsetxattr(file, ACL, acl, XattrFlags::empty()),
        // A new file may have one of its folder.
        None => match fremovexattr(file, ACL) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            outcome => outcome,
        },
    };
    given.map_err(|error| kept("ACL", error.into()))?;
    if let Some(label) = &rights.label {
        let _ = fsetxattr(file, LABEL, label, XattrFlags::empty());
    }
    // After the ACL, whose mask is the group's part of the mode; and after the owner, whose change
    // takes bits away.
    let mode = Permissions::from_mode(rights.found.mode() & 0o7777);
    file.set_permissions(mode).map_err(|error| kept("mode", error))
}

/// `None`: it has none, or its file system knows none.
fn attribute(path: &Path, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    let read = || -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; lgetxattr_query(path, name)?];
        let length = lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(length);
        Ok(value)
    };
    match read() {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
