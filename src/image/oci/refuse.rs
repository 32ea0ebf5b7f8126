//! What cannot be made without running something inside the image, refused before a file is read.

use super::host_platform;
use crate::image::Error;
use crate::image::plan::{holds_sdk, refuse_mounts};
use crate::image::registry::Platform;
use crate::spec::image::Base;
use crate::spec::{Image, Layer};

/// Refuses what this builder cannot make, naming the layer and the reason.
pub fn refuse(image: &Image) -> Result<(), Error> {
    refuse_base(&image.base)?;
    image.layers.iter().try_for_each(refuse_layer)?;
    image.layers.iter().try_for_each(refuse_mounts)?;
    image
        .platforms
        .iter()
        .try_for_each(|platform| refuse_platform(image, platform))
}

fn needs_container(what: String, hint: &str) -> Result<(), Error> {
    Err(Error::NeedsContainer {
        what,
        hint: hint.to_owned(),
    })
}

fn refuse_base(base: &Base) -> Result<(), Error> {
    match base {
        Base::Debian { .. } | Base::Uri(_) => Ok(()),
        Base::Dockerfile(file) => needs_container(
            format!("`from_dockerfile('{}')` needs BuildKit", file.display()),
            "use the Docker builder, or declare the Python packages on `Image.from_debian_base()`",
        ),
        Base::Ref(name) => needs_container(
            format!(
                "`from_ref_name('{name}')` names no image that is configured, so there is no base to build on"
            ),
            "map the name to an image in the configuration (`image.image_refs`) or by `--image`",
        ),
    }
}

fn refuse_layer(layer: &Layer) -> Result<(), Error> {
    match layer {
        Layer::AptPackages { packages, .. } => needs_container(
            format!(
                "`with_apt_packages('{}')` runs `apt-get` inside the image, and the OCI builder runs nothing there",
                packages.join("', '")
            ),
            "use the Docker builder, or name a base that holds the packages (`Image.from_base`)",
        ),
        Layer::Commands { commands, .. } => needs_container(
            format!(
                "`with_commands('{}')` needs a container runtime",
                commands.join("', '")
            ),
            "use the Docker builder, or name a base in which the commands have been run",
        ),
        Layer::PixiProject { .. } | Layer::PixiScript { .. } => needs_container(
            format!(
                "`{}`: pixi environments cannot be packed without a container yet",
                layer.method()
            ),
            "use the Docker builder, or declare the packages by `with_pip_packages`",
        ),
        Layer::PipPackages { .. }
        | Layer::Requirements { .. }
        | Layer::UvProject { .. }
        | Layer::PoetryProject { .. }
        | Layer::UvScript { .. }
        | Layer::Wheels { .. }
        | Layer::EnvVars(_)
        | Layer::Workdir(_)
        | Layer::SourceFile { .. }
        | Layer::SourceFolder { .. }
        | Layer::CodeBundle { .. }
        | Layer::DockerIgnore(_) => Ok(()),
    }
}

/// Packages can be had for any platform, but our own library exists for this machine's alone.
pub(super) fn refuse_platform(image: &Image, platform: &str) -> Result<(), Error> {
    let Some(asked) = Platform::parse(platform).filter(|asked| asked.os == "linux") else {
        return Err(Error::Invalid {
            method: "platform",
            problem: format!("`{platform}` is not of the form `linux/amd64`"),
        });
    };
    let with_sdk = holds_sdk(image);
    let host = host_platform();
    if !with_sdk || asked.serves(&host) {
        return Ok(());
    }
    needs_container(
        format!(
            "the image is for `{platform}`, and this SDK, which goes into it, is compiled for `{}/{}`",
            host.os, host.architecture
        ),
        "build on a machine of that platform, or leave this SDK out by `from_debian_base(install_flyte=False)`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Code, Diagnostic};
    use crate::image::oci::tests::image;
    use crate::spec::{InstallMode, InstallOptions};

    #[test]
    fn what_needs_something_to_run_is_refused_by_name() {
        let options = InstallOptions::default;
        let layer = |layer| image(true, vec![layer]);
        let on = |base| crate::spec::Image {
            base,
            ..image(true, vec![])
        };
        let foreign = if host_platform().architecture == "amd64" {
            "linux/arm64"
        } else {
            "linux/amd64"
        };
        let elsewhere = |with_sdk| crate::spec::Image {
            platforms: vec![foreign.to_owned()],
            ..image(with_sdk, vec![])
        };
        let cases = [
            (
                layer(Layer::AptPackages {
                    packages: vec!["git".into(), "curl".into()],
                    secret_mounts: vec![],
                }),
                "with_apt_packages('git', 'curl')",
            ),
            (
                layer(Layer::Commands {
                    commands: vec!["make".into()],
                    secret_mounts: vec![],
                }),
                "`with_commands('make')` needs a container runtime",
            ),
            (
                layer(Layer::PixiProject {
                    manifest: "pixi.toml".into(),
                    lock: None,
                    environment: "default".into(),
                    mode: InstallMode::DependenciesOnly,
                    options: options(),
                }),
                "with_pixi_project",
            ),
            (
                layer(Layer::PixiScript {
                    script: "s.py".into(),
                    environment: "default".into(),
                    options: options(),
                }),
                "from_pixi_script",
            ),
            (
                on(Base::Dockerfile("/p/Dockerfile".into())),
                "needs BuildKit",
            ),
            (on(Base::Ref("gpu".into())), "from_ref_name('gpu')"),
            (elsewhere(true), foreign),
        ];
        for (image, part) in cases {
            let error = refuse(&image).unwrap_err();
            assert_eq!(error.code(), Code::ImageNeedsContainer, "{part}");
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.hints().len(), 1, "{part}");
        }
        refuse(&elsewhere(false)).unwrap();
        let odd = crate::spec::Image {
            platforms: vec!["windows/amd64".to_owned()],
            ..image(false, vec![])
        };
        assert_eq!(refuse(&odd).unwrap_err().code(), Code::ImageInvalid);
    }
}
