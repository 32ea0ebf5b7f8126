//! The images that the PyPI SDK is released with, as environments.
//!
//! `ghcr.io/flyteorg/flyte:pyX.Y-vA.B.C` is a Python with that very version of the SDK and nothing
//! else that an app could see. The same is had from PyPI without a container engine: our SDK is not
//! put in, so that their runtime runs their apps.

use std::path::PathBuf;

use super::build;
use super::env::{self, Progress, Slot, Toolchain};
use super::error::Error;
use super::hash::ImageHash;
use crate::spec::PythonVersion;

/// What their image names begin with.
const REPOSITORY: &str = "ghcr.io/flyteorg/flyte";
/// Raised whenever such an environment would be built differently.
const RECIPE: u32 = 1;

/// One released image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    pub python: PythonVersion,
    /// Version of the SDK on PyPI.
    pub version: String,
}

impl Released {
    /// What `uri` names, if it is a released image.
    pub fn read(uri: &str) -> Option<Self> {
        Self::read_tag(uri.strip_prefix(REPOSITORY)?.strip_prefix(':')?)
    }

    /// The same without a registry: `flyte:pyX.Y-vA.B.C`.
    pub fn read_name(name: &str) -> Option<Self> {
        Self::read_tag(name.strip_prefix("flyte:")?)
    }

    fn read_tag(tag: &str) -> Option<Self> {
        let (python, version) = tag.strip_prefix("py")?.split_once("-v")?;
        let (major, minor) = python.split_once('.')?;
        // It becomes an argument of an installer, so it has to be a version and nothing else.
        let plain = version
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
        let python = PythonVersion {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        };
        let numbered = version.starts_with(|first: char| first.is_ascii_digit());
        (plain && numbered).then(|| Self {
            python,
            version: version.to_owned(),
        })
    }

    /// The whole name, as their SDK writes it.
    pub fn uri(&self) -> String {
        let Self { python, version } = self;
        format!("{REPOSITORY}:py{python}-v{version}")
    }

    fn slot(&self, home: &std::path::Path) -> Slot {
        let parts = ("released", self.uri(), RECIPE);
        Slot::at(
            home,
            "flyte",
            &ImageHash::of(format!("{parts:?}").as_bytes()),
        )
    }

    /// The environment, if it was built.
    pub fn locate(&self, home: &std::path::Path) -> Option<PathBuf> {
        let environment = self.slot(home).finished()?;
        Some(environment.path)
    }

    /// The environment: the one that is there, or a new one.
    pub async fn ensure(
        &self,
        toolchain: &Toolchain,
        progress: &(dyn Fn(Progress<'_>) + Send + Sync),
    ) -> Result<PathBuf, Error> {
        let slot = self.slot(&toolchain.home);
        if let Some(environment) = slot.finished() {
            return Ok(environment.path);
        }
        let lock = slot.lock(progress).await?;
        if let Some(environment) = slot.finished() {
            return Ok(environment.path);
        }
        slot.clear()?;
        let built = build::released(toolchain, self, slot.place(&lock), progress).await;
        Ok(env::settle(&slot, built)?.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_released_images_are_read() {
        let uri = "ghcr.io/flyteorg/flyte:py3.12-v2.12.1";
        let released = Released::read(uri).unwrap();
        assert_eq!((released.python.major, released.python.minor), (3, 12));
        assert_eq!(released.version, "2.12.1");
        assert_eq!(released.uri(), uri);
        assert_eq!(Released::read_name("flyte:py3.12-v2.12.1"), Some(released));
        for other in [
            "ghcr.io/flyteorg/flyte:py3.12",
            "ghcr.io/flyteorg/flyte:py3.12-vx",
            "ghcr.io/flyteorg/flyte:py3.12-v2 --index-url=http://x",
            "ghcr.io/flyteorg/flyte-extras:py3.12-v2.12.1",
            "ghcr.io/flyteorg/flyte@sha256:00",
            "docker.io/flyteorg/flyte:py3.12-v2.12.1",
            "ghcr.io/flyteorg/flyte:py3.12-v-e",
        ] {
            assert_eq!(Released::read(other), None, "{other}");
        }
    }
}
