//! Requests on the gateway's short way: what the app gets is one request and no more, the one that
//! the client sent, however the bytes arrive. A difference in where it ends would be smuggling.

use flyte_native::local::gateway::fuzz::{Seen, chunks, request};

const MOST: usize = 4096;

struct Read {
    start: [String; 2],
    host: Vec<Vec<u8>>,
    body: Vec<u8>,
}

/// Reads a whole request with another reader of heads than the one under test uses for its own.
fn read(bytes: &[u8]) -> Read {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = parsed.parse(bytes) else {
        panic!(
            "what the app gets is no request: {:?}",
            bytes.escape_ascii().to_string()
        );
    };
    let all = |name: &str| {
        let found = parsed.headers.iter();
        let found = found.filter(|header| header.name.eq_ignore_ascii_case(name));
        found
            .map(|header| header.value.to_vec())
            .collect::<Vec<_>>()
    };
    for single in ["transfer-encoding", "upgrade", "te", "connection", "expect"] {
        assert!(all(single).is_empty(), "`{single}` is passed on");
    }
    let lengths = all("content-length");
    assert!(lengths.len() <= 1, "two lengths");
    let length = lengths.first().map_or(0, |value| {
        let text = std::str::from_utf8(value).expect("a length is digits");
        text.parse::<usize>().expect("a length is a number")
    });
    assert_eq!(bytes.len(), head + length, "more or less than one request");
    Read {
        start: [parsed.method, parsed.path].map(|part| part.unwrap_or_default().to_owned()),
        host: all("host"),
        body: bytes[head..].to_vec(),
    }
}

pub fn run(data: &[u8]) {
    let seen = request(data, MOST);
    if let Seen::Whole(length, host, out) = &seen {
        assert!(*length <= data.len().min(MOST));
        let (theirs, ours) = (read(out), &data[..*length]);
        assert_eq!(
            theirs.host,
            [host.as_bytes()],
            "another host than was routed by"
        );
        assert!(ours.ends_with(&theirs.body));
        let start = theirs.start.join(" ");
        assert!(
            ours.windows(start.len())
                .any(|part| part == start.as_bytes()),
            "{start:?}"
        );
        // What follows belongs to the next request, and what is missing makes it no other one.
        let alone = request(ours, MOST);
        assert_eq!(alone, seen, "what follows a request changes it");
        for cut in [0, *length / 2, length - 1] {
            let part = request(&data[..cut], MOST);
            assert!(!matches!(part, Seen::Whole(..)), "half a request is whole");
        }
    }
    let whole = chunks([data]);
    let cut = data.len() / 3;
    let pieces = chunks([&data[..cut], &data[cut..]]);
    assert_eq!(whole, pieces, "a chunked body depends on how it arrives");
    if let Some((used, true)) = whole {
        assert_eq!(chunks([&data[..used]]), Some((used, true)));
    }
}
