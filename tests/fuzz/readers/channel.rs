//! What a replica says over its channel, which an app that runs in the same process can write to: every
//! line is understood or ends the channel, in however many pieces it arrives, and none grows without
//! end.

use flyte_native::local::supervisor::said::{Lines, MOST_BYTES, Said};

/// All that is understood of these pieces, and whether the channel is still good.
fn heard<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Said>, bool) {
    let (mut lines, mut said) = (Lines::default(), Vec::new());
    for piece in pieces {
        lines.push(piece);
        loop {
            match lines.line() {
                Ok(Some(one)) => said.push(one),
                Ok(None) => break,
                Err(_) => return (said, false),
            }
        }
        assert!(lines.waiting() <= MOST_BYTES, "a line grows without end");
    }
    (said, true)
}

pub fn run(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else {
        return;
    };
    let whole = heard([data]);
    let cut = usize::from(cut) * data.len() / 256;
    assert_eq!(whole, heard([&data[..cut], &data[cut..]]));
    assert_eq!(whole, heard(data.chunks(1)));
    // Without an end, however long it is, a line is given up and not kept.
    if data.len() > 1 && data[0] == b'"' && !data.contains(&b'\n') {
        let pieces = 1 + MOST_BYTES / data.len();
        assert!(!heard(std::iter::repeat_n(data, pieces + 1)).1);
    }
}
