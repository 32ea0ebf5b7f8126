//! Removing things so that they are gone: at once for whoever looks, and whatever their modes are.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Moves a thing into `trash`, where nobody finds it; tells where it is now, and nothing where it was
/// not there.
pub fn set_aside(path: &Path, trash: &Path) -> io::Result<Option<PathBuf>> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    super::private_folder(trash).map_err(io::Error::other)?;
    // A name of its own: what an earlier one left may resist removal.
    let place = tempfile::Builder::new().tempdir_in(trash)?.keep();
    let aside = place.join("it");
    match move_to(path, &aside) {
        Ok(()) => Ok(Some(place)),
        Err(error) => {
            let _ = fs::remove_dir(&place);
            match error.kind() {
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(error),
            }
        }
    }
}

/// Renames. Whoever moves a folder elsewhere changes it, so it must be open to its owner.
fn move_to(path: &Path, aside: &Path) -> io::Result<()> {
    match fs::rename(path, aside) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.is_dir() => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
            fs::rename(path, aside)
        }
        done => done,
    }
}

/// How often a folder is emptied that somebody writes to meanwhile.
const ROUNDS: usize = 20;

/// Removes a file, or a folder with all in it, folders too that its owner may not write to, and those
/// that somebody else still writes to. What is not there is removed.
pub fn remove_all(path: &Path) -> io::Result<()> {
    let mut done = remove(path);
    for _ in 1..ROUNDS {
        match &done {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open_up(path);
                return remove(path);
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => done = remove(path),
            _ => break,
        }
    }
    done
}

fn remove(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let removed = if there.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Lets the owner into all folders. A folder is opened before it is read, so one walk does it.
fn open_up(path: &Path) {
    let walk = WalkDir::new(path).into_iter();
    let folders = walk.filter_entry(|entry| {
        if entry.file_type().is_dir() {
            let mode = fs::Permissions::from_mode(0o700);
            // What is not ours resists, which the removal tells.
            let _ = fs::set_permissions(entry.path(), mode);
        }
        true
    });
    folders.for_each(drop);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(path: &Path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
    }

    #[test]
    fn folders_that_are_closed_go_too() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("run");
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/file"), "x").unwrap();
        close(&path.join("a/b"));
        close(&path.join("a"));
        remove_all(&path).unwrap();
        assert!(!path.exists());
        remove_all(&path).unwrap();
    }

    #[test]
    fn folders_that_somebody_writes_to_go_too() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("run");
        fs::create_dir(&path).unwrap();
        for number in 0..3000 {
            fs::write(path.join(number.to_string()), "").unwrap();
        }
        let written = path.clone();
        let writer = std::thread::spawn(move || {
            let mut number = 0;
            while fs::write(written.join(format!("new-{number}")), "").is_ok() {
                number += 1;
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        });
        remove_all(&path).unwrap();
        writer.join().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_lies_in_the_trash_is_in_nobodys_way() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, trash) = (scratch.path().join("run"), scratch.path().join("trash"));
        for _ in 0..2 {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            let aside = set_aside(&path, &trash).unwrap().unwrap();
            assert!(aside.join("it/file").exists() && !path.exists());
        }
        assert_eq!(set_aside(&path, &trash).unwrap(), None);
    }
}
