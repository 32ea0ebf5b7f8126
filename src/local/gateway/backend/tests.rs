//! What a backend counts, and how it knows that an app has hung up.

use super::*;

fn nowhere() -> Arc<Backend> {
    Backend::new(([127, 0, 0, 1], 9).into(), None)
}

#[tokio::test]
async fn a_hung_up_connection_is_noticed_before_its_task_runs() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = Own::open(socket.local_addr().unwrap()).await;
    let connection = connection.unwrap();
    let (app, _) = socket.accept().unwrap();
    assert!(is_open(&connection.socket));
    drop(app);
    // Nothing was awaited since, so that only the kernel can know.
    assert!(!is_open(&connection.socket));
}

#[tokio::test]
async fn drained_waits_for_the_last_request() {
    let backend = nowhere();
    let slots = [backend.enter(), backend.enter()];
    let drained = {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move { backend.drained().await })
    };
    backend.retire();
    for slot in slots {
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        drop(slot.unwrap());
    }
    drained.await.unwrap();
}

#[tokio::test]
async fn a_retired_backend_takes_nothing_and_counts_nothing() {
    let backend = nowhere();
    backend.retire();
    assert!(backend.enter().is_none());
    assert_eq!(backend.in_flight(), 0);
    backend.drained().await;
}
