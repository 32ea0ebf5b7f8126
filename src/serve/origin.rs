//! Where the source of an app can be read: the commit of its repository, as a link.
//!
//! Read from the repository's own files. A program to ask may not be there, and would take longer
//! than all else that is done before anything is sent.

use std::path::{Path, PathBuf};

/// The link to the commit that `folder` is at, where its repository has a place on the web.
pub fn link(folder: &Path) -> Option<String> {
    let git = folder.ancestors().find_map(git_folder)?;
    let commit = commit(&git)?;
    let config = std::fs::read_to_string(common(&git).join("config")).ok()?;
    Some(format!("{}/tree/{commit}", web(&remote(&config)?)?))
}

/// What belongs to a repository at `folder`; in a work tree of its own, a file names it.
fn git_folder(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(".git");
    if path.is_dir() {
        return Some(path);
    }
    let text = std::fs::read_to_string(&path).ok()?;
    Some(folder.join(text.strip_prefix("gitdir:")?.trim()))
}

/// What all work trees of a repository share.
fn common(git: &Path) -> PathBuf {
    match std::fs::read_to_string(git.join("commondir")) {
        Ok(text) => git.join(text.trim()),
        Err(_) => git.to_path_buf(),
    }
}

fn commit(git: &Path) -> Option<String> {
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(name) = head.strip_prefix("ref:") else {
        return is_commit(head.trim());
    };
    let (name, common) = (name.trim(), common(git));
    let loose = |place: &Path| std::fs::read_to_string(place.join(name)).ok();
    if let Some(text) = loose(git).or_else(|| loose(&common)) {
        return is_commit(text.trim());
    }
    let packed = std::fs::read_to_string(common.join("packed-refs")).ok()?;
    let line = packed
        .lines()
        .find(|line| line.split_once(' ').is_some_and(|(_, known)| known == name))?;
    is_commit(line.split(' ').next()?)
}

fn is_commit(text: &str) -> Option<String> {
    let fits = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| text.to_owned())
}

/// The address of `origin`.
fn remote(config: &str) -> Option<String> {
    let mut is_origin = false;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            is_origin = line == "[remote \"origin\"]";
        } else if is_origin
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "url"
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

/// The same address for a browser, without what gives access.
fn web(remote: &str) -> Option<String> {
    let rest = match remote.split_once("://") {
        Some(("https" | "http" | "ssh" | "git", rest)) => rest.to_owned(),
        Some(_) => return None,
        // As in `git@host:owner/name`; without a host it is a folder.
        None => {
            let (host, path) = remote.split_once(':')?;
            if host.contains('/') || host.len() < 2 {
                return None;
            }
            format!("{host}/{}", path.trim_start_matches('/'))
        }
    };
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit('@').next()?;
    // The port of SSH means nothing to a browser.
    let host = if remote.starts_with("http") {
        host
    } else {
        host.split(':').next()?
    };
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!host.is_empty() && !path.is_empty()).then(|| format!("https://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_fit_for_a_browser() {
        let page = Some("https://h.x/o/n".to_owned());
        for remote in [
            "https://h.x/o/n.git",
            "https://user:token@h.x/o/n",
            "git@h.x:o/n.git",
            "ssh://git@h.x:22/o/n.git",
        ] {
            assert_eq!(web(remote), page, "{remote}");
        }
        for remote in ["/srv/n.git", "../n", "file:///srv/n", "C:/n"] {
            assert_eq!(web(remote), None, "{remote}");
        }
    }

    #[test]
    fn the_commit_is_found_loose_packed_or_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let git = folder.path().join(".git");
        let write = |name: &str, text: &str| {
            let path = git.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        write(
            "config",
            "[core]\n[remote \"origin\"]\n\turl = git@h.x:o/n.git\n",
        );
        write("HEAD", "ref: refs/heads/main\n");
        let inside = folder.path().join("src/deep");
        assert_eq!(link(&inside), None);
        write("packed-refs", &format!("# pack\n{one} refs/heads/main\n"));
        assert_eq!(link(&inside), Some(format!("https://h.x/o/n/tree/{one}")));
        write("refs/heads/main", &format!("{two}\n"));
        assert_eq!(link(&inside), Some(format!("https://h.x/o/n/tree/{two}")));
        write("HEAD", &one);
        assert_eq!(link(&inside), Some(format!("https://h.x/o/n/tree/{one}")));
    }
}
