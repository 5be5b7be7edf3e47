use std::time::Duration;

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
