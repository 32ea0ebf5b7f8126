//! Messages as they come from a socket: any bytes are read or refused, in both codings, and what was
//! read says the same once it was written again.

use buffa::Message;
use flyte_native::wire::{app, auth, cluster, dataproxy, logs, project, secret, status};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn read<M>(json: bool, bytes: &[u8]) -> Option<M>
where
    M: Message + Serialize + DeserializeOwned,
{
    if json {
        serde_json::from_slice(bytes).ok()
    } else {
        M::decode_from_slice(bytes).ok()
    }
}

fn both<M>(json: bool, bytes: &[u8]) -> Option<M>
where
    M: Message + Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let message: M = read(json, bytes)?;
    let written = message.encode_to_vec();
    let again = M::decode_from_slice(&written).expect("what was written can be read");
    // Compared as bytes: a number that is none equals nothing, itself included.
    assert_eq!(again.encode_to_vec(), written);
    Some(message)
}

pub fn run(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else {
        return;
    };
    let json = first & 0x80 != 0;
    match first & 0x7f {
        0 => drop(both::<app::CreateRequest>(json, bytes)),
        1 => drop(both::<app::UpdateRequest>(json, bytes)),
        2 => drop(both::<app::ListRequest>(json, bytes)),
        3 => drop(both::<app::WatchResponse>(json, bytes)),
        4 => drop(both::<app::TailLogsResponse>(json, bytes)),
        5 => drop(both::<dataproxy::CreateUploadLocationRequest>(json, bytes)),
        6 => drop(both::<dataproxy::CreateUploadLocationResponse>(json, bytes)),
        7 => drop(both::<auth::GetPublicClientConfigResponse>(json, bytes)),
        8 => drop(both::<cluster::SelectClusterResponse>(json, bytes)),
        9 => drop(both::<secret::CreateSecretRequest>(json, bytes)),
        10 => drop(both::<project::ListProjectsResponse>(json, bytes)),
        11 => drop(both::<logs::dataplane::LogLine>(json, bytes)),
        12 => drop(both::<app::GetRequest>(json, bytes)),
        13 => drop(both::<app::DeleteRequest>(json, bytes)),
        14 => drop(both::<app::WatchRequest>(json, bytes)),
        15 => drop(both::<app::ListResponse>(json, bytes)),
        16 => drop(both::<app::TailLogsRequest>(json, bytes)),
        17 => drop(both::<secret::ListSecretsResponse>(json, bytes)),
        18 => drop(both::<cluster::SelectClusterRequest>(json, bytes)),
        _ => {
            if let Some(app) = both::<app::App>(json, bytes) {
                let _ = status::short_name(status::deployment_status(&app));
            }
        }
    }
}
