//! Remembers what files held, so that an unchanged file is not read again.
//!
//! A record says: the file with this size and this [`Stamp`] held this content. It is believed as
//! long as the file system shows the same size and stamp. The exception is git's racy rule: a file
//! that was changed within one tick of the clock before it was read may be changed once more in
//! that same tick, with the same size, and the stamp would not tell. Such a file is not recorded,
//! and read again next time.
//!
//! Records go by inode, not by name: a folder that is renamed keeps them, and hard links share one.
//! The cache only saves work. One that is missing, damaged or of another version is empty.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::walk::Stamp;
use super::{Digest, Error, write_cache};

const MAGIC: &[u8; 8] = b"flystat1";
/// Device, inode, size, two times and the position of the first digest.
const RECORD_BYTES: usize = 48;
const DIGEST_BYTES: usize = 32;
/// File systems stamp with a clock that ticks every 1 to 10 ms.
const TICK_NS: i64 = 20_000_000;
/// Some (FAT, old NFS and HFS+) keep whole or even seconds only.
const COARSE_TICK_NS: i64 = 2_100_000_000;

/// The state of a file that a record was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub size: u64,
    pub stamp: Stamp,
}

impl State {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            stamp: Stamp::of(metadata),
        }
    }
}

/// What was known when the cache was loaded.
#[derive(Debug, Default)]
pub struct StatCache {
    /// Sorted by device and inode.
    records: Vec<Record>,
    digests: Vec<Digest>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    state: State,
    first_digest: usize,
}

impl Record {
    fn key(&self) -> (u64, u64) {
        (self.state.stamp.device, self.state.stamp.inode)
    }
}

impl StatCache {
    /// Reads a cache; an empty one where there is none that can be used.
    pub fn load(path: &Path) -> Self {
        std::fs::read(path)
            .ok()
            .and_then(|bytes| Self::parse(&bytes))
            .unwrap_or_default()
    }

    /// The `count` digests that were recorded for a file in exactly this state.
    pub fn digests(&self, state: &State, count: usize) -> Option<&[Digest]> {
        let wanted = (state.stamp.device, state.stamp.inode);
        let index = self.records.binary_search_by_key(&wanted, Record::key);
        let record = self.records.get(index.ok()?)?;
        (record.state == *state)
            .then(|| {
                self.digests
                    .get(record.first_digest..record.first_digest.checked_add(count)?)
            })
            .flatten()
    }

    /// Replaces the cache at `path` by these records.
    ///
    /// Records that the racy rule forbids must have been left out, see [`is_settled`].
    pub fn save<'a>(
        path: &Path,
        files: impl Iterator<Item = (State, &'a [Digest])>,
    ) -> Result<(), Error> {
        let mut cache = Self::default();
        for (state, digests) in files {
            cache.records.push(Record {
                state,
                first_digest: cache.digests.len(),
            });
            cache.digests.extend_from_slice(digests);
        }
        cache.records.sort_by_key(Record::key);
        let folder = super::folder_of(path);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        write_cache(path, &cache.to_bytes())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let room = self.records.len() * RECORD_BYTES + self.digests.len() * DIGEST_BYTES;
        let mut bytes = Vec::with_capacity(room + 64);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(self.records.len() as u64).to_le_bytes());
        for Record {
            state: State { size, stamp },
            first_digest,
        } in &self.records
        {
            for number in [stamp.device, stamp.inode, *size, *first_digest as u64] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            for number in [stamp.modified_ns, stamp.changed_ns] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        for digest in &self.digests {
            bytes.extend_from_slice(digest.as_bytes());
        }
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// `None` for anything but what [`Self::to_bytes`] has written.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
        if blake3::hash(body) != blake3::Hash::from_bytes(*check) {
            return None;
        }
        let (count, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let (records, digests) = rest.split_at_checked(count.checked_mul(RECORD_BYTES)?)?;
        Some(Self {
            records: records
                .chunks_exact(RECORD_BYTES)
                .map(record)
                .collect::<Option<_>>()?,
            digests: digests
                .chunks_exact(DIGEST_BYTES)
                .map(|bytes| Some(Digest::from(blake3::Hash::from_slice(bytes).ok()?)))
                .collect::<Option<_>>()?,
        })
    }
}

fn record(bytes: &[u8]) -> Option<Record> {
    let mut numbers = bytes.as_chunks::<8>().0.iter();
    let mut unsigned = || Some(u64::from_le_bytes(*numbers.next()?));
    let [device, inode, size, first_digest] = [unsigned()?, unsigned()?, unsigned()?, unsigned()?];
    let mut signed = || Some(i64::from_le_bytes(*numbers.next()?));
    Some(Record {
        state: State {
            size,
            stamp: Stamp {
                device,
                inode,
                modified_ns: signed()?,
                changed_ns: signed()?,
            },
        },
        first_digest: usize::try_from(first_digest).ok()?,
    })
}

/// Whether a file with this stamp, read not before `read_at_ns`, cannot have changed since under
/// the same stamp.
pub fn is_settled(stamp: &Stamp, read_at_ns: i64) -> bool {
    let newest = stamp.modified_ns.max(stamp.changed_ns);
    let whole_seconds =
        stamp.modified_ns % 1_000_000_000 == 0 && stamp.changed_ns % 1_000_000_000 == 0;
    let tick = if whole_seconds {
        COARSE_TICK_NS
    } else {
        TICK_NS
    };
    newest.saturating_add(tick) < read_at_ns
}

/// The time, in nanoseconds since 1970, as stamps have it.
pub fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn state(inode: u64, size: u64, changed_ns: i64) -> State {
        State {
            size,
            stamp: Stamp {
                device: 1,
                inode,
                modified_ns: changed_ns,
                changed_ns,
            },
        }
    }

    fn digest(text: &str) -> Digest {
        blake3::hash(text.as_bytes()).into()
    }

    #[test]
    fn what_was_saved_is_known_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stat");
        let (a, b) = ([digest("a")], [digest("b1"), digest("b2")]);
        let files = [(state(9, 1, 5), &a[..]), (state(3, 7, -6), &b[..])];
        StatCache::save(&path, files.into_iter()).unwrap();
        let cache = StatCache::load(&path);
        assert_eq!(cache.digests(&state(9, 1, 5), 1), Some(&a[..]));
        assert_eq!(cache.digests(&state(3, 7, -6), 2), Some(&b[..]));
        for other in [state(9, 2, 5), state(9, 1, 6), state(8, 1, 5)] {
            assert_eq!(cache.digests(&other, 1), None);
        }
        assert_eq!(cache.digests(&state(9, 1, 5), 9), None, "a wrong count");
    }

    #[test]
    fn a_damaged_cache_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stat");
        let one = [digest("a")];
        StatCache::save(&path, [(state(1, 1, 1), &one[..])].into_iter()).unwrap();
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(StatCache::load(&path).records.is_empty(), "{position}");
            fs::write(&path, &whole[..position]).unwrap();
            assert!(StatCache::load(&path).records.is_empty(), "{position}");
        }
    }

    #[test]
    fn a_file_changed_just_before_it_was_read_is_not_settled() {
        let second = 1_000_000_000;
        let at = |ns| state(1, 1, ns).stamp;
        assert!(is_settled(&at(5 * second + 1), 5 * second + TICK_NS + 2));
        assert!(!is_settled(&at(5 * second + 1), 5 * second + TICK_NS));
        assert!(
            !is_settled(&at(9 * second + 1), 5 * second),
            "from the future"
        );
        assert!(!is_settled(&at(5 * second), 6 * second), "a coarse clock");
        assert!(is_settled(&at(5 * second), 8 * second));
        let touched = Stamp {
            modified_ns: 1,
            ..at(5 * second + 1)
        };
        assert!(!is_settled(&touched, 5 * second + 2), "with an old mtime");
    }
}
