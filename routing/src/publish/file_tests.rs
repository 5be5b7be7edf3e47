use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::time::Duration;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::*;
use crate::document::Side;
use crate::publish::test_documents::{Folder, document};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn store(path: &Path, document: &Document) -> Result<Ack, Failure> {
    replace(path, &document.to_json(), Form::Json, document, soon())
}

fn read(path: &Path) -> Document {
    Document::from_json(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn versions_rise_and_are_acknowledged_again() {
    let folder = Folder::create();
    let path = folder.join("routing.json");
    let (first, second) = (document(1, Side::Old), document(2, Side::New));
    assert_eq!(store(&path, &first).unwrap(), Ack::Stored);
    assert_eq!(store(&path, &first).unwrap(), Ack::Held);
    assert_eq!(store(&path, &second).unwrap(), Ack::Stored);
    let older = store(&path, &first).unwrap_err();
    assert!(matches!(older, Failure::Newer { found: 2, version: 1 }), "{older}");
    let other = store(&path, &document(2, Side::Old)).unwrap_err();
    assert!(matches!(other, Failure::Differs { version: 2 }), "{other}");
    let mut stranger = document(3, Side::Old);
    stranger.plan = "other".to_owned();
    let stranger = store(&path, &stranger).unwrap_err();
    assert!(matches!(stranger, Failure::OtherPlan { .. }), "{stranger}");
    assert_eq!(read(&path), second);
    assert_eq!(folder.names(), ["routing.json"]);
}

#[test]
fn a_crash_before_the_renaming_leaves_the_old_version_and_harms_nothing() {
    let folder = Folder::create();
    let path = folder.join("routing.json");
    store(&path, &document(1, Side::Old)).unwrap();
    // As far as a process comes that dies before the renaming; and one of another time, in the
    // middle of its writing.
    let next = document(2, Side::New);
    write_beside(&path, &next.to_json(), Form::Json).unwrap();
    assert_eq!(folder.names().len(), 2);
    assert_eq!(read(&path).version, 1);
    fs::write(folder.join(".routing.json.modshift-1"), "{\"for").unwrap();
    fs::write(folder.join(".other.json.modshift-1"), "{\"for").unwrap();
    assert_eq!(store(&path, &next).unwrap(), Ack::Stored);
    assert_eq!(read(&path), next);
    assert_eq!(folder.names(), [".other.json.modshift-1", "routing.json"]);
}

#[test]
fn nothing_takes_its_place_after_the_deadline() {
    let folder = Folder::create();
    let path = folder.join("routing.json");
    store(&path, &document(1, Side::Old)).unwrap();
    let next = document(2, Side::New);
    let late = replace(&path, &next.to_json(), Form::Json, &next, Instant::now()).unwrap_err();
    assert!(matches!(late, Failure::Unreachable { .. }), "{late}");
    assert_eq!((read(&path).version, folder.names().len()), (1, 1));
}

#[test]
fn what_modshift_has_not_written_stays() {
    let folder = Folder::create();
    let path = folder.join("routing.json");
    fs::write(&path, "shards:\n- db-0\n").unwrap();
    let foreign = store(&path, &document(1, Side::Old)).unwrap_err();
    assert!(matches!(foreign, Failure::Foreign { .. }), "{foreign}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "shards:\n- db-0\n");
    let missing = store(&folder.join("no/such/folder/x.json"), &document(1, Side::Old));
    let missing = missing.unwrap_err();
    assert!(matches!(missing, Failure::Unreachable { .. }), "{missing}");
}

#[test]
fn a_file_keeps_its_permissions_and_one_with_passwords_is_its_owners() {
    let folder = Folder::create();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let path = folder.join("routing.json");
    store(&path, &document(1, Side::Old)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    store(&path, &document(2, Side::Old)).unwrap();
    assert_eq!(mode(&path), 0o640);
    let (path, document) = (folder.join("sharding.yaml"), document(1, Side::Old));
    let form = Form::Comment("#");
    let text = form.head(&document) + "password: x\n";
    replace(&path, &text, form, &document, soon()).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(replace(&path, &text, form, &document, soon()).unwrap(), Ack::Held);
}

/// The owner's rw, a user's r, the group's r, nobody else's; as `system.posix_acl_access` has it.
fn acl(user: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [(1, 6, NOBODY), (2, 4, user), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(rights));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

#[test]
fn a_file_keeps_owner_group_and_acl() {
    let folder = Folder::create();
    let path = folder.join("routing.json");
    store(&path, &document(1, Side::Old)).unwrap();
    let of = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    let is_root = of(&path).0 == 0;
    if is_root {
        chown(&path, Some(1234), Some(2345)).unwrap();
    }
    let name = "system.posix_acl_access";
    setxattr(&path, name, &acl(3456), XattrFlags::empty()).unwrap();
    let before = of(&path);
    assert_eq!(store(&path, &document(2, Side::New)).unwrap(), Ack::Stored);
    assert_eq!(of(&path), before);
    let mut found = vec![0; 100];
    let length = getxattr(&path, name, found.as_mut_slice()).unwrap();
    assert_eq!(found[..length], acl(3456));
}

#[test]
fn a_folders_acl_does_not_open_a_file_that_has_none() {
    let folder = Folder::create();
    let path = folder.join("routing.json");
    store(&path, &document(1, Side::Old)).unwrap();
    let inherited = "system.posix_acl_default";
    setxattr(folder.path(), inherited, &acl(3456), XattrFlags::empty()).unwrap();
    store(&path, &document(2, Side::New)).unwrap();
    let found = getxattr(&path, "system.posix_acl_access", [0; 100].as_mut_slice());
    assert_eq!(found, Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_link_is_followed_by_choice_only_and_never_in_the_new_files_place() {
    let folder = Folder::create();
    let (path, link) = (folder.join("routing.json"), folder.join("link.json"));
    store(&path, &document(1, Side::Old)).unwrap();
    symlink("routing.json", &link).unwrap();
    let resolve = |follow| Place { path: &link, follow }.resolve();
    let refused = resolve(false).unwrap_err();
    assert!(matches!(refused, Failure::Symlink { .. }), "{refused}");
    store(&resolve(true).unwrap(), &document(2, Side::New)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(read(&path).version, 2);
    // One that came in the meantime is not read through either.
    assert!(store(&link, &document(3, Side::New)).is_err());

    // Under the name that the new file gets first.
    let target = folder.join("target");
    fs::write(&target, "theirs").unwrap();
    let ready = folder.join(&format!(".routing.json.modshift-{}", std::process::id()));
    symlink(&target, &ready).unwrap();
    store(&path, &document(3, Side::New)).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
    assert_eq!(read(&path).version, 3);
}
