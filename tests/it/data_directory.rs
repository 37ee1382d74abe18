//! Who else on the machine may get at a data directory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use crate::support::{
    events::contact,
    process::{Launcher, run, tidings},
};

/// A user who is not that of the tests.
const SOMEBODY: u32 = 12_345;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Paths below a directory that others may read or change.
fn exposed_below(dir: &Path) -> Vec<String> {
    let mut exposed = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if mode(&path) & 0o077 != 0 {
            exposed.push(format!("{} {:o}", path.display(), mode(&path)));
        }
        if entry.file_type().unwrap().is_dir() {
            exposed.extend(exposed_below(&path));
        }
    }
    exposed
}

#[tokio::test]
async fn a_directory_that_was_there_is_made_the_gateways_alone() {
    let launcher = Launcher::new();
    fs::create_dir(launcher.data_dir()).unwrap();
    set_mode(&launcher.data_dir(), 0o755);
    let gateway = launcher.start().await;
    gateway.client.publish(1, contact(1)).await;
    gateway.stop().await;
    assert_eq!(mode(&launcher.data_dir()), 0o700);
    assert_eq!(exposed_below(&launcher.data_dir()), [""; 0], "files that others may get at");
}

#[tokio::test]
async fn a_directory_that_others_may_change_is_refused() {
    let launcher = Launcher::new();
    launcher.start().await.stop().await;
    let data_dir = launcher.data_dir();
    for writable in [0o777, 0o770, 0o702] {
        set_mode(&data_dir, writable);
        let refusal = launcher.refusal().await;
        let told = format!("other users may change it (its mode is {writable:03o})");
        assert!(refusal.contains(&told) && refusal.contains("chmod 700"), "{refusal}");
        assert_eq!(mode(&data_dir), writable, "nothing was changed");
    }
    set_mode(&data_dir, 0o700);
    launcher.start().await.stop().await;
    // Only root can give a directory to somebody else.
    if chown(&data_dir, Some(SOMEBODY), None).is_ok() {
        let refusal = launcher.refusal().await;
        assert!(refusal.contains("it belongs to the user 12345"), "{refusal}");
    }
}

#[tokio::test]
async fn a_link_in_place_of_the_lock_is_not_followed() {
    let launcher = Launcher::new();
    fs::create_dir(launcher.data_dir()).unwrap();
    let victim = launcher.file("victim", "precious");
    symlink(&victim, launcher.data_dir().join("lock")).unwrap();
    let refusal = launcher.refusal().await;
    assert!(refusal.contains("its file lock is a symbolic link"), "{refusal}");
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}

#[tokio::test]
async fn a_directory_with_files_of_others_is_refused_and_stays_as_it_is() {
    let launcher = Launcher::new();
    let data_dir = launcher.data_dir();
    fs::create_dir(&data_dir).unwrap();
    set_mode(&data_dir, 0o755);
    // These may be there before the first start.
    fs::create_dir(data_dir.join("lost+found")).unwrap();
    fs::write(data_dir.join("secrets.key"), "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
    set_mode(&data_dir.join("secrets.key"), 0o600);
    fs::write(data_dir.join("precious"), "of somebody else").unwrap();
    let refusal = launcher.refusal().await;
    assert!(refusal.contains("has no store in it, and is not empty: precious is there"), "{refusal}");
    assert!(refusal.contains("Choose another with --data-dir"), "{refusal}");
    assert_eq!(mode(&data_dir), 0o755);
    assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 3, "nothing was created");
    fs::remove_file(data_dir.join("precious")).unwrap();
    launcher.start().await.stop().await;
    assert_eq!(mode(&data_dir), 0o700);
}

#[tokio::test]
async fn a_directory_for_everybodys_files_is_refused_without_the_advice_to_take_it() {
    let launcher = Launcher::new();
    fs::create_dir(launcher.data_dir()).unwrap();
    fs::set_permissions(launcher.data_dir(), fs::Permissions::from_mode(0o1777)).unwrap();
    let refusal = launcher.refusal().await;
    assert!(refusal.contains("its mode is 1777): choose a directory within it with --data-dir"), "{refusal}");
    assert!(!refusal.contains("chmod"), "{refusal}");
}

#[tokio::test]
async fn a_file_that_the_gateways_user_may_not_use_is_named_with_its_owner() {
    let launcher = Launcher::new();
    let data_dir = launcher.data_dir();
    launcher.start().await.stop().await;
    let dir = data_dir.to_str().unwrap().to_owned();
    // Only root can be somebody else, and may use everything otherwise.
    if chown(&data_dir, Some(SOMEBODY), None).is_err() {
        return;
    }
    set_mode(launcher.dir(), 0o755);
    // As `cp -a` leaves a copy by root: first all of it, then a directory, then a file.
    let log = data_dir.join("ledger/0000000001.log");
    for (denied, denied_owner) in [(&data_dir, 0), (&data_dir.join("ledger"), 0), (&log, 0)] {
        for path in all_of(&data_dir) {
            chown(path, Some(SOMEBODY), None).unwrap();
        }
        chown(denied, Some(denied_owner), None).unwrap();
        let named = format!(
            "Permission denied. This process runs as the user {SOMEBODY}, and may not read and change {}, which belongs to the user 0",
            denied.display()
        );
        let (mut serve, mut check) = (launcher.command(), tidings(&["check", &dir]));
        for command in [&mut serve, &mut check] {
            command.uid(SOMEBODY);
        }
        for command in [serve, check] {
            let ended = run(command).await;
            assert_eq!(ended.code, Some(1), "{ended:?}");
            assert!(ended.stderr.contains(&named), "{ended:?}");
            assert!(ended.stderr.contains(&format!("chown -R USER {dir}")), "{ended:?}");
        }
    }
    chown(&log, Some(SOMEBODY), None).unwrap();
    let mut check = tidings(&["check", &dir]);
    check.uid(SOMEBODY);
    let ended = run(check).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// A directory and everything in it.
fn all_of(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => paths.extend(all_of(&entry.path())),
            false => paths.push(entry.path()),
        }
    }
    paths
}
