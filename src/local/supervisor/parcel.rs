//! Whether what a replica could not unpack is what was sent.
//!
//! An upload lies in a folder that is named by its MD5. One that does not have that MD5 any more was
//! damaged where it lies: it is set aside, so that the next serve finds it missing and sends it anew.

use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::diagnose::Failure;
use super::launch;
use crate::config::Home;
use crate::error::Code;
use crate::files::read_in_pieces;
use crate::wire::app;

/// Adds to a failure what is wrong with the app's uploads, if that may be why.
pub(super) async fn explain(home: &Home, app: &app::App, failure: Failure) -> Failure {
    if failure.code != Code::RuntimeLoad {
        return failure;
    }
    let uploads = uploads(&home.uploads(), app);
    let examined = tokio::task::spawn_blocking(move || {
        uploads
            .into_iter()
            .filter(|path| set_aside_if_damaged(path))
            .count()
    });
    match examined.await {
        Ok(1..) => Failure {
            message: format!(
                "{}: what was sent is damaged where the platform keeps it, and was set aside; serve \
                 the app again to send it anew",
                failure.message
            ),
            ..failure
        },
        Ok(0) | Err(_) => failure,
    }
}

/// The files below `uploads` that an app names as its code.
fn uploads(uploads: &Path, app: &app::App) -> Vec<PathBuf> {
    let words = launch::container(app).map(|one| [&one.command[..], &one.args[..]].concat());
    let words = words.unwrap_or_default().into_iter();
    words
        .chain([app.metadata.code_bundle_uri.clone()])
        .filter_map(|word| Some(PathBuf::from(word.strip_prefix("file://")?)))
        .filter(|path| path.starts_with(uploads))
        .collect()
}

fn set_aside_if_damaged(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    let wanted = folder.to_string_lossy();
    let mut hash = Md5::new();
    // What cannot be read to its end is as good as damaged; what is not there is another matter.
    let read = read_in_pieces(path, |piece| hash.update(piece));
    let found = hex(&hash.finalize());
    // Files of folders lie below names that are no MD5.
    if !path.is_file() || wanted.len() != found.len() || (read.is_ok() && found == wanted) {
        return false;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".damaged-{name}"));
    match std::fs::rename(path, &aside) {
        Ok(()) => {
            tracing::error!(aside = %aside.display(), "an upload is damaged and was set aside");
            true
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a damaged upload stays");
            false
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_have_the_md5_of_its_place_is_set_aside() {
        let home = tempfile::tempdir().unwrap();
        // The MD5 of `hello`.
        let folder = home.path().join("p/d/5d41402abc4b2a76b9719d911017c592");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("code.tar.zst");
        assert!(!set_aside_if_damaged(&path), "it is not there");
        std::fs::write(&path, "hello").unwrap();
        assert!(!set_aside_if_damaged(&path));
        std::fs::write(&path, "hullo").unwrap();
        assert!(set_aside_if_damaged(&path));
        assert!(!path.exists() && folder.join(".damaged-code.tar.zst").exists());
    }
}
