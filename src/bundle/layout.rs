//! Cuts the tar stream of a list into frames that are compressed on their own.
//!
//! Where a frame begins follows from the names and sizes of the files around it alone, so a file
//! that changes, comes or goes moves the borders near it and no others: all other frames have been
//! compressed before. Files of more than one piece come first, each of their pieces a frame. They
//! rarely change, and what follows a change has to be hashed once more for the MD5 of the archive.
//! What the files hold and how frames are compressed is not known here.

use std::ops::Range;

use super::{BundleFile, FileList};

/// Largest part of a file in one frame.
pub(super) const PIECE_BYTES: u64 = 2 << 20;
/// Files above this have frames of their own.
const LARGE_BYTES: u64 = 1 << 20;
/// A frame of small files ends somewhere between these...
const MIN_FRAME_BYTES: u64 = 256 << 10;
const MAX_FRAME_BYTES: u64 = 2 << 20;
/// ...at a border that comes about once in so many bytes.
const BORDER_EVERY_BYTES: u64 = 512 << 10;
/// Headers and padding of one file in a tar, roughly.
const ENTRY_BYTES: u64 = 1024;

/// One frame of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Whole small files: these positions of [`Layout::small`].
    Files(Range<usize>),
    /// A part of a large file: its position in the list, and which piece.
    Piece { file: usize, piece: usize },
    /// The two empty records at the end of each tar.
    End,
}

/// The frames of a list, in their order.
#[derive(Debug)]
pub(super) struct Layout {
    /// Positions in the list, by name.
    pub(super) small: Vec<usize>,
    pub(super) frames: Vec<Frame>,
}

impl Layout {
    pub(super) fn of(list: &FileList) -> Self {
        let files = list.files();
        let (large, small): (Vec<usize>, Vec<usize>) =
            (0..files.len()).partition(|&index| files[index].size > LARGE_BYTES);
        let mut frames: Vec<Frame> = large
            .iter()
            .flat_map(|&file| {
                (0..piece_count(files[file].size)).map(move |piece| Frame::Piece { file, piece })
            })
            .collect();
        frames.extend(cut(small.iter().map(|&index| &files[index])).map(Frame::Files));
        frames.push(Frame::End);
        Self { small, frames }
    }
}

/// How many pieces a file has; an empty one has one.
pub(super) fn piece_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(PIECE_BYTES).max(1)).unwrap_or(usize::MAX)
}

/// The bytes of one piece of a file of this size.
pub(super) fn piece_range(size: u64, piece: usize) -> Range<u64> {
    let start = (piece as u64).saturating_mul(PIECE_BYTES).min(size);
    start..start.saturating_add(PIECE_BYTES).min(size)
}

/// Ranges of positions that share a frame.
fn cut<'a>(files: impl Iterator<Item = &'a BundleFile>) -> impl Iterator<Item = Range<usize>> {
    let (mut ranges, mut start, mut bytes, mut end) = (Vec::new(), 0, 0, 0);
    for file in files {
        let weight = file.size + ENTRY_BYTES;
        bytes += weight;
        end += 1;
        let is_border = bytes >= MIN_FRAME_BYTES && is_border(&file.name, weight);
        if is_border || bytes >= MAX_FRAME_BYTES {
            ranges.push(start..end);
            (start, bytes) = (end, 0);
        }
    }
    if start < end {
        ranges.push(start..end);
    }
    ranges.into_iter()
}

/// Whether the file of this name is followed by a border. The more bytes a file has the likelier it
/// is, so that borders are as far apart among many small files as among few bigger ones.
fn is_border(name: &str, weight: u64) -> bool {
    let [a, b, c, d, ..] = *blake3::hash(name.as_bytes()).as_bytes();
    let dice = u64::from(u32::from_le_bytes([a, b, c, d]));
    dice < (u64::from(u32::MAX) / BORDER_EVERY_BYTES).saturating_mul(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::walk::Stamp;

    fn list(files: impl IntoIterator<Item = (String, u64)>) -> FileList {
        let stamp = Stamp {
            device: 0,
            inode: 0,
            modified_ns: 0,
            changed_ns: 0,
        };
        FileList {
            files: files
                .into_iter()
                .map(|(name, size)| BundleFile {
                    name: name.into(),
                    size,
                    executable: false,
                    stamp,
                })
                .collect(),
            ..FileList::default()
        }
    }

    /// The names in each frame.
    fn groups(list: &FileList) -> Vec<Vec<&str>> {
        let layout = Layout::of(list);
        let name = |index: usize| &*list.files()[index].name;
        layout
            .frames
            .iter()
            .map(|frame| match frame {
                Frame::Files(range) => layout.small[range.clone()]
                    .iter()
                    .map(|&i| name(i))
                    .collect(),
                Frame::Piece { file, .. } => vec![name(*file)],
                Frame::End => Vec::new(),
            })
            .collect()
    }

    #[test]
    fn every_file_is_in_one_frame_and_large_ones_come_first_in_pieces() {
        let sizes = [10, 5 << 20, 0, (1 << 20) + 1];
        let list = list(sizes.map(|size| (format!("of {size}"), size)));
        assert_eq!(
            Layout::of(&list).frames,
            [
                Frame::Piece { file: 1, piece: 0 },
                Frame::Piece { file: 1, piece: 1 },
                Frame::Piece { file: 1, piece: 2 },
                Frame::Piece { file: 3, piece: 0 },
                Frame::Files(0..2),
                Frame::End
            ]
        );
        assert_eq!(piece_range(5 << 20, 2), (4 << 20)..(5 << 20));
        assert_eq!((piece_count(0), piece_range(0, 0)), (1, 0..0));
    }

    #[test]
    fn a_change_moves_the_borders_near_it_only() {
        let files = |except: usize| {
            (0..5000_u64)
                .map(|n| (format!("pkg/f{n:05}.py"), n * 7919 % 9000))
                .filter(move |(name, _)| *name != format!("pkg/f{except:05}.py"))
        };
        let extra = |size| [("pkg/f02500.py".to_owned(), size)].into_iter();
        let sorted = |files: &mut dyn Iterator<Item = (String, u64)>| {
            let mut files: Vec<_> = files.collect();
            files.sort();
            list(files)
        };
        let before = sorted(&mut files(9999));
        let old = groups(&before);
        assert!((30..90).contains(&old.len()), "{}", old.len());
        for (what, after) in [
            ("gone", sorted(&mut files(2500))),
            ("grown", sorted(&mut files(2500).chain(extra(300_000)))),
            ("large", sorted(&mut files(2500).chain(extra(3 << 20)))),
        ] {
            let kept = groups(&after)
                .iter()
                .filter(|group| old.contains(group))
                .count();
            assert!(kept + 4 >= old.len(), "{what}: {kept} of {}", old.len());
        }
    }
}
