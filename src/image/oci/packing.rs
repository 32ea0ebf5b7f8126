//! Packages as layers, cut so that one changed package does not send the others again.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::cache::{Cache, key};
use super::layer::{Layer, Packed, Packing};
use super::packages::{Installer, Package};
use super::stage::{Traits, Unpacked, Venv};
use crate::image::Error;
use crate::image::build::off_thread;

/// Packages of at least this size have a layer of their own.
const OWN_LAYER_BYTES: u64 = 256 << 10;

/// Packages as an image holds them.
#[derive(Default)]
pub(super) struct Packages {
    /// With what they are called in the image's history.
    pub layers: Vec<(String, Packed)>,
    /// The names that they put into `site-packages`.
    pub tops: BTreeSet<String>,
}

/// Packages that share a layer.
struct Group {
    names: BTreeSet<String>,
    title: String,
    key: String,
    packed: Option<Packed>,
}

/// How and where to.
pub(super) struct Packer<'a> {
    pub installer: &'a Installer<'a>,
    pub cache: &'a Cache,
    pub venv: &'a Venv,
    pub packing: Packing,
    /// Layers that may be made.
    pub limit: usize,
}

impl Packer<'_> {
    /// The layers of `packages`, of which only those are packed that were not packed before.
    pub(super) async fn pack(&self, packages: &[Package]) -> Result<Packages, Error> {
        let mut traits = BTreeMap::new();
        let mut new = Vec::new();
        for package in packages {
            match self.cache.recall::<Traits>("packages", &self.key(package)) {
                Some(known) => drop(traits.insert(package.name.clone(), known)),
                None => new.push(package),
            }
        }
        let mut unpacked = self.unpack(&new).await?;
        for package in new {
            let own = unpacked
                .get(&package.name)
                .map(|unpacked| unpacked.traits.clone());
            let own = own.unwrap_or_default();
            self.cache.remember("packages", &self.key(package), &own)?;
            traits.insert(package.name.clone(), own);
        }
        let groups = self.groups(packages, &traits);
        let lacking: BTreeSet<_> = groups
            .iter()
            .filter(|group| group.packed.is_none())
            .flat_map(|group| &group.names)
            .filter(|name| !unpacked.contains_key(*name))
            .collect();
        let lacking: Vec<_> = packages
            .iter()
            .filter(|package| lacking.contains(&package.name))
            .collect();
        unpacked.extend(self.unpack(&lacking).await?);
        let (cache, packing) = (self.cache.clone(), self.packing);
        let layers = off_thread(move || finish(&cache, packing, groups, &unpacked)).await?;
        Ok(Packages {
            layers,
            tops: traits
                .into_values()
                .flat_map(|traits| traits.tops)
                .collect(),
        })
    }

    fn key(&self, package: &Package) -> String {
        package.key(self.venv.python, &self.venv.path)
    }

    async fn unpack(&self, packages: &[&Package]) -> Result<BTreeMap<String, Unpacked>, Error> {
        if packages.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.installer.unpack(packages, self.venv).await
    }

    /// Large packages apart, the largest first to be given a layer; small ones together.
    fn groups(&self, packages: &[Package], traits: &BTreeMap<String, Traits>) -> Vec<Group> {
        let size = |package: &Package| traits.get(&package.name).map_or(0, |traits| traits.bytes);
        let mut large: Vec<_> = packages
            .iter()
            .filter(|package| size(package) >= OWN_LAYER_BYTES)
            .collect();
        large.sort_by_key(|package| std::cmp::Reverse((size(package), &package.name)));
        large.truncate(self.limit.saturating_sub(1));
        let alone: BTreeSet<_> = large.iter().map(|package| &package.name).collect();
        let (large, small): (Vec<_>, Vec<_>) = packages
            .iter()
            .partition(|package| alone.contains(&package.name));
        let mut groups: Vec<_> = large
            .into_iter()
            .map(|package| self.group(&[package], format!("{} {}", package.name, package.version)))
            .collect();
        if !small.is_empty() {
            let names: Vec<_> = small.iter().map(|package| package.name.as_str()).collect();
            groups.push(self.group(&small, names.join(", ")));
        }
        groups
    }

    fn group(&self, members: &[&Package], title: String) -> Group {
        let keys: Vec<_> = members.iter().map(|package| self.key(package)).collect();
        let mut parts = vec!["packages", self.packing.name()];
        parts.extend(keys.iter().map(String::as_str));
        let key = key(&parts);
        Group {
            names: members.iter().map(|package| package.name.clone()).collect(),
            title,
            packed: Packed::recall(self.cache, &key),
            key,
        }
    }
}

fn finish(
    cache: &Cache,
    packing: Packing,
    groups: Vec<Group>,
    unpacked: &BTreeMap<String, Unpacked>,
) -> Result<Vec<(String, Packed)>, Error> {
    groups
        .into_par_iter()
        .map(|group| {
            let packed = match group.packed {
                Some(packed) => packed,
                None => {
                    let mut layer = Layer::default();
                    for name in &group.names {
                        let own = unpacked.get(name);
                        layer
                            .entries
                            .extend(own.iter().flat_map(|own| own.layer.entries.clone()));
                    }
                    Packed::make(cache, &group.key, packing, &layer)?
                }
            };
            Ok((group.title, packed))
        })
        .collect()
}
