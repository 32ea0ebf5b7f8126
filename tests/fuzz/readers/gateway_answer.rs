//! Heads of answers as a hostile app sends them: what the client gets is one head, with one way to
//! tell where the body ends, and it says nothing of the connection between the app and the gateway.

use flyte_native::local::gateway::fuzz::answer;

pub fn run(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else {
        return;
    };
    let Some((mut head, body)) = answer(data, first & 1 == 1) else {
        return;
    };
    assert!(body <= data.len());
    head.extend_from_slice(b"\r\n");
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut headers);
    let read = parsed.parse(&head);
    assert_eq!(
        read,
        Ok(httparse::Status::Complete(head.len())),
        "{:?}",
        head.escape_ascii().to_string()
    );
    assert!(
        !matches!(parsed.code, Some(100..=199)),
        "an interim answer is passed on"
    );
    let all = |name: &str| {
        let found = parsed.headers.iter();
        let found = found.filter(|header| header.name.eq_ignore_ascii_case(name));
        found
            .map(|header| header.value.to_vec())
            .collect::<Vec<_>>()
    };
    for single in [
        "connection",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-connection",
    ] {
        assert!(all(single).is_empty(), "`{single}` is passed on");
    }
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    assert!(lengths.is_empty() || codings.is_empty(), "two framings");
    assert!(
        lengths.windows(2).all(
            |pair| pair[0].trim_ascii_start() == pair[1].trim_ascii_start()
                || pair
                    .iter()
                    .all(|length| length.iter().all(u8::is_ascii_digit))
        ),
        "{lengths:?}"
    );
}
