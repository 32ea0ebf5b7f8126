//! What a store says of an object's content, and whether that is what arrived.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use md5::{Digest as _, Md5};

use super::location::Scheme;

/// A checksum of a whole object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Md5([u8; 16]),
    Crc(Crc, u64),
}

/// Cyclic redundancy checks that stores compute; parts of them can be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crc {
    Crc32,
    Crc32c,
    Crc64Nvme,
}

impl Crc {
    fn algorithm(self) -> CrcAlgorithm {
        match self {
            Self::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Self::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
        }
    }

    /// A value as stores write it: the big end first, in base64.
    fn value(self, text: &str) -> Option<Checksum> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        let value = bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        (bytes.len() == self.bytes()).then_some(Checksum::Crc(self, value))
    }
}

impl Checksum {
    /// The cheapest checksum of the whole object that an answer holds.
    pub fn of(scheme: Scheme, headers: &HeaderMap, whole: bool) -> Option<Self> {
        let get = |name: &str| headers.get(name)?.to_str().ok();
        match scheme {
            Scheme::S3 => s3(&get, whole),
            Scheme::Gcs => google(headers),
            Scheme::Azure => get("x-ms-blob-content-md5")
                .or_else(|| get("content-md5").filter(|_| whole))
                .and_then(md5_of_base64),
            // Of a part it is the checksum of that part.
            Scheme::Http => get("content-md5")
                .filter(|_| whole && !headers.contains_key("content-encoding"))
                .and_then(md5_of_base64),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Md5(_) => "MD5",
            Self::Crc(Crc::Crc32, _) => "CRC32",
            Self::Crc(Crc::Crc32c, _) => "CRC32C",
            Self::Crc(Crc::Crc64Nvme, _) => "CRC64NVME",
        }
    }

    /// As hexadecimal digits.
    pub fn hex(&self) -> String {
        match self {
            Self::Md5(bytes) => format!("{:032x}", u128::from_be_bytes(*bytes)),
            Self::Crc(kind, value) => format!("{value:0digits$x}", digits = 2 * kind.bytes()),
        }
    }

    /// Begins to compute a checksum of this kind.
    pub fn begin(&self) -> Running {
        match self {
            Self::Md5(_) => Running::Md5(Box::new(Md5::new())),
            Self::Crc(kind, _) => {
                Running::Crc(*kind, Box::new(crc_fast::Digest::new(kind.algorithm())))
            }
        }
    }

    /// Whether it can be computed from parts that come in any order.
    pub fn joins(&self) -> bool {
        match self {
            Self::Md5(_) => false,
            Self::Crc(..) => true,
        }
    }
}

/// S3's own checksums, which it tells those who ask for them.
const S3_CRCS: [(&str, Crc); 3] = [
    ("x-amz-checksum-crc64nvme", Crc::Crc64Nvme),
    ("x-amz-checksum-crc32c", Crc::Crc32c),
    ("x-amz-checksum-crc32", Crc::Crc32),
];

fn s3<'a>(get: &impl Fn(&'static str) -> Option<&'a str>, whole: bool) -> Option<Checksum> {
    // Beside a part it may be that part's, and with a number of parts behind it it is one of theirs.
    let crc = |(name, kind): &(&'static str, Crc)| {
        let text = get(name).filter(|text| whole && !text.contains('-'))?;
        kind.value(text)
    };
    if let Some(found) = S3_CRCS.iter().find_map(crc) {
        return Some(found);
    }
    // The ETag is the MD5 of what was sent in one piece, unless a key of the service encrypts it.
    let encryption = get("x-amz-server-side-encryption").unwrap_or("AES256");
    let own_key = get("x-amz-server-side-encryption-customer-algorithm").is_some();
    let etag = get("etag")?.trim_matches('"');
    (encryption == "AES256" && !own_key)
        .then(|| md5_of_hex(etag))
        .flatten()
}

/// `x-goog-hash` comes once or twice, with one or two hashes in it.
fn google(headers: &HeaderMap) -> Option<Checksum> {
    // What was unpacked on the way is not what was hashed.
    if headers.contains_key("x-goog-stored-content-encoding")
        && headers.get("x-goog-stored-content-encoding")? != "identity"
    {
        return None;
    }
    let hashes: Vec<&str> = headers
        .get_all("x-goog-hash")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let find = |name: &str| hashes.iter().find_map(|hash| hash.strip_prefix(name));
    find("crc32c=")
        .and_then(|text| Crc::Crc32c.value(text))
        .or_else(|| find("md5=").and_then(md5_of_base64))
}

fn md5_of_base64(text: &str) -> Option<Checksum> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    bytes.try_into().ok().map(Checksum::Md5)
}

fn md5_of_hex(text: &str) -> Option<Checksum> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, at) in bytes.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(Checksum::Md5(bytes))
}

/// A checksum that is being computed.
pub enum Running {
    Md5(Box<Md5>),
    Crc(Crc, Box<crc_fast::Digest>),
}

impl Running {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hash) => hash.update(bytes),
            Self::Crc(_, hash) => hash.update(bytes),
        }
    }

    /// Appends what was computed of the part behind this one; not every kind can.
    pub fn join(&mut self, next: &Self) {
        if let (Self::Crc(_, hash), Self::Crc(_, next)) = (self, next) {
            hash.combine(next);
        }
    }

    pub fn finish(self) -> Checksum {
        match self {
            Self::Md5(hash) => Checksum::Md5(hash.finalize().into()),
            Self::Crc(kind, hash) => Checksum::Crc(kind, hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn computed(kind: Checksum) -> Checksum {
        let mut running = kind.begin();
        running.update(b"1234");
        running.update(b"56789");
        running.finish()
    }

    #[test]
    fn a_checksum_of_parts_is_that_of_the_whole() {
        // What the catalogue of such checks says of `123456789`.
        let known = [
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ];
        for pair in known {
            let told = headers(&[pair]);
            let found = Checksum::of(Scheme::S3, &told, true).unwrap();
            assert_eq!(computed(found), found, "{pair:?}");
            let (mut first, mut second) = (found.begin(), found.begin());
            first.update(b"1234");
            second.update(b"56789");
            first.join(&second);
            assert!(found.joins());
            assert_eq!(first.finish(), found);
            assert_eq!(Checksum::of(Scheme::S3, &told, false), None);
        }
    }

    #[test]
    fn each_store_says_it_in_its_own_way() {
        let md5 = "25f9e794323b453885f5181f1b624d0b";
        let of =
            |scheme, pairs: &[(&'static str, &str)]| Checksum::of(scheme, &headers(pairs), true);
        let found = of(Scheme::S3, &[("etag", &format!("\"{md5}\""))]).unwrap();
        assert_eq!((found.kind(), found.hex().as_str()), ("MD5", md5));
        assert_eq!(computed(found), found);
        assert_eq!(of(Scheme::S3, &[("etag", &format!("\"{md5}-3\""))]), None);
        let kms = [("etag", md5), ("x-amz-server-side-encryption", "aws:kms")];
        assert_eq!(of(Scheme::S3, &kms), None);
        let goog = [("x-goog-hash", "crc32c=4waSgw=="), ("x-goog-hash", "md5=x")];
        let found = of(Scheme::Gcs, &goog).unwrap();
        assert_eq!((found.kind(), found.hex().as_str()), ("CRC32C", "e3069283"));
        assert_eq!(computed(found), found);
        let text = STANDARD.encode([1; 16]);
        assert_eq!(
            of(Scheme::Http, &[("content-md5", &text)]),
            Some(Checksum::Md5([1; 16]))
        );
        let part = headers(&[("content-md5", &text)]);
        assert_eq!(Checksum::of(Scheme::Http, &part, false), None);
    }
}
