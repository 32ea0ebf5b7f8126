//! `AppLogsService`: the last lines of an app's replicas, and those that follow.

use buffa_types::google::protobuf::Timestamp;
use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use tokio::sync::broadcast::error::RecvError;

use super::Api;
use crate::local::store::AppKey;
use crate::local::supervisor::logs::Record;
use crate::wire::app::{self, AppLogsService};
use crate::wire::logs::dataplane::{LogLine, LogLineOriginator, LogsSource};

/// Text in one message; clients refuse messages of some megabytes.
const BATCH_BYTES: usize = 256 * 1024;
/// Lines sent before following, as on the clusters.
const TAIL: usize = 1000;

impl AppLogsService for Api {
    async fn tail_logs(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, app::TailLogsRequest>,
    ) -> ServiceResult<ServiceStream<impl Encodable<app::TailLogsResponse> + Send + use<>>> {
        use app::tail_logs_request::Target;
        let request = request.to_owned_message();
        let (id, replica) = match request.target {
            Some(Target::AppId(id)) => (*id, None),
            Some(Target::ReplicaId(replica)) => {
                let replica = *replica;
                (
                    replica.app_id.into_option().unwrap_or_default(),
                    Some(replica.name),
                )
            }
            None => return Err(ConnectError::invalid_argument("the request lacks `target`")),
        };
        let key = AppKey::of(&id);
        let handle = self
            .platform
            .handle(&key)
            .ok_or_else(|| ConnectError::not_found(format!("app `{}` does not exist", id.name)))?;
        // An app at rest writes nothing; on the clusters too its stream ends by itself.
        let follow = request.source.as_known() != Some(LogsSource::PERSISTED_ONLY)
            && self.platform.is_meant_to_run(&key)?;
        let wanted = move |record: &Record| {
            replica
                .as_ref()
                .is_none_or(|replica| *replica == record.replica)
        };
        // Subscribed first: a line written in between may come twice, which the time tells.
        let live = handle.logs.follow();
        let past = handle.logs.tail(TAIL, &wanted);
        let newest = past.last().map(|record| record.at);
        let snapshot = futures::stream::iter(batches(&id, past).map(Ok));
        let live = futures::stream::unfold((live, follow), |(mut live, follow)| async move {
            if !follow {
                return None;
            }
            loop {
                match live.recv().await {
                    Ok(record) => return Some((record, (live, follow))),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let live = live
            .filter(move |record| {
                let fresh = newest.is_none_or(|newest| record.at > newest) && wanted(record);
                futures::future::ready(fresh)
            })
            .map(move |record| Ok(batch(&id, vec![record])));
        Ok(Response::stream(snapshot.chain(live)))
    }
}

fn batches(
    id: &app::Identifier,
    records: Vec<Record>,
) -> impl Iterator<Item = app::TailLogsResponse> + Send + use<> {
    // One message holds lines of one replica, in order.
    let mut runs: Vec<Vec<Record>> = Vec::new();
    let mut bytes = 0;
    for record in records {
        // A line costs more than its text.
        bytes += record.text.len() + 64;
        match runs.last_mut() {
            Some(run) if bytes < BATCH_BYTES && run[0].replica == record.replica => {
                run.push(record);
            }
            _ => {
                bytes = 0;
                runs.push(vec![record]);
            }
        }
    }
    let id = id.clone();
    runs.into_iter().map(move |run| batch(&id, run))
}

fn batch(id: &app::Identifier, records: Vec<Record>) -> app::TailLogsResponse {
    let replica_id = app::ReplicaIdentifier {
        app_id: id.clone().into(),
        name: records
            .first()
            .map(|record| record.replica.clone())
            .unwrap_or_default(),
        ..Default::default()
    };
    let lines = app::LogLines {
        replica_id: replica_id.into(),
        structured_lines: records.into_iter().map(line).collect(),
        ..Default::default()
    };
    app::TailLogsResponse {
        resp: Some(
            app::LogLinesBatch {
                logs: vec![lines],
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    }
}

fn line(record: Record) -> LogLine {
    LogLine {
        timestamp: Timestamp {
            seconds: record.at.as_second(),
            nanos: record.at.subsec_nanosecond(),
            ..Default::default()
        }
        .into(),
        message: record.text,
        originator: LogLineOriginator::USER.into(),
        short_pod_name: record.replica,
        ..Default::default()
    }
}
