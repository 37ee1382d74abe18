//! Who else on the machine may get at a data directory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use crate::support::{events::contact, process::Launcher};

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
