//! Requests to the platform's services as any program can write them: envelopes of any length and kind,
//! compressed and not, in all protocols that are spoken. Each is answered, in little room, and none ends
//! the platform. What deploys an app is left out: it would run what the fuzzer wrote.

use std::io::Write;

use arbitrary::{Arbitrary, Unstructured};
use flyte_native::local::api::fuzz::ask;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    method: u8,
    kind: u8,
    encodings: [u8; 2],
    timeout: Option<&'a str>,
    parts: Vec<Part<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Part<'a> {
    Bytes(&'a [u8]),
    Zipped(&'a [u8]),
    /// So many bytes that are all the same, packed.
    Bomb(u8),
    Envelope {
        flags: u8,
        zipped: bool,
        lie: Option<u32>,
        bytes: &'a [u8],
    },
}

const METHODS: &[&str] = &[
    "app.AppService/Get",
    "app.AppService/List",
    "app.AppService/Watch",
    "app.AppService/Delete",
    "app.AppService/UpdateStatus",
    "app.AppService/Lease",
    "app.AppLogsService/TailLogs",
    "auth.AuthMetadataService/GetPublicClientConfig",
    "auth.IdentityService/UserInfo",
    "cluster.ClusterService/SelectCluster",
    "dataproxy.DataProxyService/CreateUploadLocation",
    "imagebuilder.ImageService/GetImage",
    "project.ProjectService/GetProject",
    "project.ProjectService/ListProjects",
    "secret.SecretService/GetSecret",
    "secret.SecretService/ListSecrets",
    "no.Such/Method",
];
const KINDS: &[&str] = &[
    "application/proto",
    "application/json",
    "application/connect+proto",
    "application/connect+json",
    "application/grpc",
    "application/grpc+json",
    "application/grpc-web+proto",
    "text/plain",
];
const ENCODINGS: &[&str] = &["", "identity", "gzip", "zstd", "br", "gzip, gzip"];
/// What an answer may hold, whatever was asked.
const MOST_BYTES: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = out.write_all(bytes).and_then(|()| out.finish());
    written.expect("memory can be written")
}

fn body(parts: &[Part]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(bytes) => body.extend_from_slice(bytes),
            Part::Zipped(bytes) => body.extend(gzip(bytes)),
            Part::Bomb(size) => body.extend(gzip(&vec![0; usize::from(*size) << 16])),
            Part::Envelope {
                flags,
                zipped,
                lie,
                bytes,
            } => {
                let bytes = if *zipped { gzip(bytes) } else { bytes.to_vec() };
                let length = lie.unwrap_or(bytes.len() as u32);
                body.push(*flags);
                body.extend(length.to_be_bytes());
                body.extend(bytes);
            }
        }
    }
    body
}

pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let of = |list: &[&'static str], index: u8| list[usize::from(index) % list.len()];
    let path = format!("/flyteidl2.{}", of(METHODS, input.method));
    let mut headers = vec![
        ("content-type", of(KINDS, input.kind)),
        ("connect-protocol-version", "1"),
    ];
    for (name, index) in [
        "content-encoding",
        "connect-content-encoding",
        "grpc-encoding",
    ]
    .into_iter()
    .zip([input.encodings[0], input.encodings[1], input.encodings[1]])
    {
        match of(ENCODINGS, index) {
            "" => {}
            encoding => headers.push((name, encoding)),
        }
    }
    if let Some(timeout) = input.timeout {
        headers.push(("connect-timeout-ms", timeout));
    }
    let answer = ask(&path, &headers, body(&input.parts));
    if let Some(answer) = answer {
        assert!(
            answer.bytes <= MOST_BYTES,
            "{path} answers {} bytes",
            answer.bytes
        );
    }
}
