//! The vocabulary: apps, images and parameters as plain data.
//!
//! Everything here is complete and checked: no field means "not decided yet", and nothing here
//! opens a file or a socket.

pub mod app;
pub mod image;
pub mod parameter;

pub use app::{
    Accelerator, AcceleratorClass, AppSpec, CopyStyle, Link, Metric, PodTemplate, PortSpec,
    ResourceList, Scaling, SecretRef,
};
pub use image::{Image, ImageSpec, InstallMode, InstallOptions, Layer, PythonVersion};
pub use parameter::{Parameter, ParameterKind, ParameterValue};
